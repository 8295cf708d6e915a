"""Measuring one row: a client process, a window, and the clocks before and after it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.client import POLLS, Kind, Spec
from bench.processes import ROOT, Service, Weighed, others, rss_kib, saturation
from bench.stage import Contender, Stage

STATS_DELAY_S = 11.0
"""A Postgres backend reports its commits at the latest 10 s after it fell idle."""


@dataclass
class Row:
    """What one window told."""

    kind: Kind
    runs: int
    result: dict[str, Any]
    cpu_s: dict[str, float]
    window_s: float
    saturated: str
    others: float = 0.0
    write_transactions: int = 0


@dataclass
class Summary:
    """The medians of a row's repeats."""

    kind: Kind
    runs: int
    repeats: int
    first_p50: float
    first_p99: float
    token_p50: float
    token_p99: float
    steady_p99: float
    bytes_per_token: float
    blocks_per_token: float
    cpu_per_1k: dict[str, float] = field(default_factory=dict)
    write_transactions_per_run: float = 0.0
    others: float = 0.0
    saturated: list[str] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether at least one repeat was measured with every core at ease."""
        return len(self.saturated) < self.repeats


class Client:
    """The driver's end of a client process."""

    def __init__(self, spec: Spec) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.client"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.tell(json.dumps(asdict(spec)))

    def tell(self, line: str) -> None:
        """Say something to it."""
        assert self._process.stdin  # noqa: S101
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Its next line.

        Raises:
            RuntimeError: It died; its traceback is on standard error.
        """
        assert self._process.stdout  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client failed; see above")
        return line.strip()

    def expect(self, word: str) -> None:
        """Wait for a word of the protocol."""
        heard = self.hear()
        if heard != word:
            raise RuntimeError(f"the load client said {heard[:200]!r} instead of {word!r}")

    def stop(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(10)


@contextmanager
def _client(spec: Spec) -> Iterator[Client]:
    client = Client(spec)
    try:
        yield client
    finally:
        client.stop()


@contextmanager
def _window(stage: Stage, client: Client) -> Iterator[list[Weighed]]:
    """From `ready` to `done`, weighed at both ends."""
    client.expect("ready")
    time.sleep(0.3)  # what preparing left behind settles
    stage.scales.roots["client"] = client.pid
    weighed = [stage.scales.weigh()]
    client.tell("go")
    yield weighed
    client.expect("done")
    weighed.append(stage.scales.weigh())
    del stage.scales.roots["client"]


def _spec(contender: Contender, **fields: Any) -> Spec:
    return Spec(
        kind=contender.kind,
        port=contender.port,
        bearers=tuple(contender.bearers),
        **fields,
    )


def concurrent(stage: Stage, contender: Contender, runs: int, ramp_s: float) -> Row:
    """N concurrent runs of 100 tokens at 20 tokens/s."""
    spec = _spec(contender, mode="concurrent", runs=runs, ramp_s=ramp_s)
    with _client(spec) as client:
        before_writes = _writes(stage)
        with _window(stage, client) as weighed:
            before_writes = _writes(stage)
        writes = _writes(stage) - before_writes
        result = json.loads(client.hear())
    before, after = weighed
    return Row(
        kind=contender.kind,
        runs=runs,
        result=result,
        cpu_s={name: after.cpu[name] - before.cpu[name] for name in before.cpu},
        window_s=after.at - before.at,
        saturated=saturation(before, after),
        others=others(before, after),
        write_transactions=writes,
    )


def first_token(stage: Stage, contender: Contender, samples: int) -> dict[str, list[float]]:
    """Short turns one after the other: the added time to the first token, alone on the machine."""
    spec = _spec(contender, mode="turns", runs=samples, tokens=3)
    with _client(spec) as client:
        with _window(stage, client):
            pass
        if contender.kind == "relay":
            with _window(stage, client):
                pass
        result = json.loads(client.hear())
    return {"opening_ms": result["opening_ms"], "later_ms": result["later_ms"]}


def counts(stage: Stage, contender: Contender, turns: int) -> dict[str, float]:
    """Transactions of a turn of one token, and of a poll, beyond what idling commits anyway."""
    counters = stage.counters
    if counters is None:
        return {}
    counters.quieten()
    time.sleep(STATS_DELAY_S)
    start, start_commits = time.monotonic(), counters.commits()
    time.sleep(STATS_DELAY_S)
    idle_per_s = (counters.commits() - start_commits) / (time.monotonic() - start)
    spec = _spec(contender, mode="turns", runs=turns, tokens=1)
    with _client(spec) as client:
        client.expect("ready")
        at, commits, writes = time.monotonic(), counters.commits(), counters.write_transactions()
        client.tell("go")
        client.expect("done")
        turn_writes = counters.write_transactions() - writes
        time.sleep(STATS_DELAY_S)
        turn_commits = counters.commits() - commits - idle_per_s * (time.monotonic() - at)
        client.expect("ready")
        at, commits = time.monotonic(), counters.commits()
        client.tell("go")
        client.expect("done")
        time.sleep(STATS_DELAY_S)
        poll_commits = counters.commits() - commits - idle_per_s * (time.monotonic() - at)
        client.hear()
    return {
        "write transactions per turn of one token": turn_writes / (2 * turns),
        "transactions per turn of one token, reads included": turn_commits / (2 * turns),
        "transactions per poll": poll_commits / POLLS,
        "transactions per second, idle": idle_per_s,
    }


def idle(contender: Contender, service: Service, streams: int) -> float:
    """KiB of resident memory that each silent stream adds to a fresh process."""
    spec = Spec(
        kind=contender.kind,
        port=service.port,
        mode="idle",
        runs=streams,
        bearers=tuple(contender.bearers),
    )
    pid = service.process.pid
    with _client(spec) as client:
        client.expect("ready")
        time.sleep(1)
        before = rss_kib(pid)
        client.tell("go")
        client.expect("done")
        time.sleep(2)
        after = rss_kib(pid)
        client.tell("close")
        client.hear()
    return (after - before) / streams


def summarise(rows: list[Row]) -> Summary:
    """Medians over the repeats of one row; saturated repeats count only when all are."""
    calm = [row for row in rows if not row.saturated] or rows

    def median(values: list[float]) -> float:
        return statistics.median(values)

    def at(name: str, share: float) -> float:
        return median([quantile(row.result[name], share) for row in calm])

    return Summary(
        kind=rows[0].kind,
        runs=rows[0].runs,
        repeats=len(rows),
        first_p50=at("first_ms", 0.5),
        first_p99=at("first_ms", 0.99),
        token_p50=at("token_ms", 0.5),
        token_p99=at("token_ms", 0.99),
        steady_p99=at("steady_ms", 0.99),
        bytes_per_token=median([row.result["bytes_per_token"] for row in calm]),
        blocks_per_token=median([row.result["blocks_per_token"] for row in calm]),
        cpu_per_1k={
            name: median([row.cpu_s[name] * 1e6 / row.result["tokens"] for row in calm])
            for name in rows[0].cpu_s
        },
        write_transactions_per_run=median([row.write_transactions / row.runs for row in calm]),
        others=max(row.others for row in calm),
        saturated=[row.saturated for row in rows if row.saturated],
    )


def quantile(values: list[float], share: float) -> float:
    """The value that this share of all stays at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _writes(stage: Stage) -> int:
    return stage.counters.write_transactions() if stage.counters else 0
