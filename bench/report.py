"""The measured numbers as Markdown, and the promises they are held against."""

import platform
import statistics
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import psutil

from bench.client import Kind
from bench.rows import Summary, quantile

NAMES: dict[Kind, str] = {"upstream": "upstream", "naive": "naive relay", "relay": "Tutor Relay"}
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "openai", "sqlalchemy", "asyncpg")


DISTURBED = 0.2
"""Cores used by strangers above which a row's note says so."""


@dataclass
class Verdict:
    """One promise and whether this run kept it."""

    what: str
    value: float | None
    limit: float
    unit: str = ""

    def line(self) -> str:
        """As printed."""
        if self.value is None:
            return f"| {self.what} | not compared | ≤ {self.limit:g}{self.unit} | |"
        outcome = "pass" if self.value <= self.limit else "FAIL"
        return (
            f"| {self.what} | {self.value:.2f}{self.unit} | ≤ {self.limit:g}{self.unit} "
            f"| {outcome} |"
        )


@dataclass
class Report:
    """Everything that a run of the benchmark found."""

    summaries: list[Summary] = field(default_factory=list)
    first: dict[Kind, dict[str, list[float]]] = field(default_factory=dict)
    idle_kib: dict[Kind, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    machine: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        verdicts = [asdict(verdict) for verdict in self.verdicts()]
        return asdict(self) | {"verdicts": verdicts}

    def markdown(self) -> str:
        """The tables."""
        parts = [self.machine, self._latencies(), self._cpu(), self._first(), self._memory()]
        if self.counts:
            lines = [f"| {name} | {value:.2f} |" for name, value in self.counts.items()]
            parts.append("\n".join(["| counted | |", "|---|---|", *lines]))
        if "relay" in self.first and "naive" in self.first:
            head = ["| promise | measured | limit | |", "|---|---|---|---|"]
            parts.append("\n".join([*head, *(verdict.line() for verdict in self.verdicts())]))
        return "\n\n".join(part for part in parts if part)

    def _latencies(self) -> str:
        head = (
            "| runs | contender | first token p50 / p99 ms | token p50 / p99 ms "
            "| p99 once all run | bytes / token | blocks / token | |"
        )
        lines = [
            head,
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.runs} | {NAMES[row.kind]} | {row.first_p50:.1f} / {row.first_p99:.1f} "
            f"| {row.token_p50:.2f} / {row.token_p99:.2f} | {row.steady_p99:.2f} "
            f"| {row.bytes_per_token:.0f} | {row.blocks_per_token:.2f} | {_note(row)} |"
            for row in self.summaries
        ]
        return "\n".join(lines)

    def _cpu(self) -> str:
        columns = ("naive", "api", "worker", "postgres", "upstream", "client")
        lines = [
            "| runs | contender | " + " | ".join(columns) + " | write transactions / run |",
            "|---|---|" + "---|" * (len(columns) + 1),
        ]
        for row in self.summaries:
            cells = [_cell(row, name) for name in columns]
            writes = f"{row.write_transactions_per_run:.1f}" if row.kind == "relay" else ""
            lines.append(f"| {row.runs} | {NAMES[row.kind]} | {' | '.join(cells)} | {writes} |")
        return "CPU-ms per 1,000 tokens, by process:\n\n" + "\n".join(lines)

    def _first(self) -> str:
        head = (
            "| alone, added time to first token, ms | opening turn p50 / p90 "
            "| later turn p50 / p90 |"
        )
        lines = [
            head,
            "|---|---|---|",
        ]
        for kind, found in self.first.items():
            cells = [
                f"{statistics.median(found[name]):.1f} / {quantile(found[name], 0.9):.1f}"
                for name in ("opening_ms", "later_ms")
            ]
            lines.append(f"| {NAMES[kind]} | {' | '.join(cells)} |")
        return "\n".join(lines) if self.first else ""

    def _memory(self) -> str:
        lines = ["| memory | |", "|---|---|"]
        lines += [f"| {name}, peak RSS MiB | {mib:.0f} |" for name, mib in self.peak_mib.items()]
        lines += [
            f"| {NAMES[kind]}, KiB RSS per idle stream | {kib:.1f} |"
            for kind, kib in self.idle_kib.items()
        ]
        return "\n".join(lines)

    def verdicts(self) -> list[Verdict]:
        """The promises, each against the naive relay of the same run."""
        most = max((row.runs for row in self.summaries), default=0)
        rows = {row.kind: row for row in self.summaries if row.runs == most and row.comparable}
        relay, naive = rows.get("relay"), rows.get("naive")

        def ratio(*names: str) -> float | None:
            if relay is None or naive is None or not set(names) <= relay.cpu_per_1k.keys():
                return None
            return sum(relay.cpu_per_1k[name] for name in names) / naive.cpu_per_1k["naive"]

        def later(name: str) -> float | None:
            if not {"relay", "naive"} <= self.first.keys():
                return None
            relay_ms, naive_ms = self.first["relay"][name], self.first["naive"][name]
            return statistics.median(relay_ms) - statistics.median(naive_ms)

        def wire() -> float | None:
            if relay is None or naive is None:
                return None
            return relay.bytes_per_token / naive.bytes_per_token

        return [
            Verdict(
                f"(api + worker) / naive, CPU per token, {most} runs", ratio("api", "worker"), 0.5
            ),
            Verdict(
                f"(api + worker + Postgres) / naive, CPU per token, {most} runs",
                ratio("api", "worker", "postgres"),
                0.7,
            ),
            Verdict(
                "first token after naive's, alone, opening turn, p50",
                later("opening_ms"),
                15,
                " ms",
            ),
            Verdict(
                "first token after naive's, alone, later turn, p50", later("later_ms"), 15, " ms"
            ),
            Verdict(
                f"added latency per token, p99, {most} runs",
                None if relay is None else relay.token_p99,
                60,
                " ms",
            ),
            Verdict(
                "bytes on the wire per token / naive",
                wire(),
                1.5,
            ),
            Verdict("RSS per idle stream", self.idle_kib.get("relay"), 40, " KiB"),
        ]


def _cell(row: Summary, name: str) -> str:
    own = {
        "upstream": {"upstream", "client"},
        "naive": {"naive", "upstream", "client"},
        "relay": {"api", "worker", "postgres", "upstream", "client"},
    }
    return f"{row.cpu_per_1k[name]:.1f}" if name in own[row.kind] & row.cpu_per_1k.keys() else ""


def _note(row: Summary) -> str:
    notes = []
    who = ", ".join(sorted(set(row.saturated)))
    if not row.comparable:
        notes.append(f"**saturated** ({who}): not compared")
    elif row.saturated:
        notes.append(f"{len(row.saturated)} of {row.repeats} repeats saturated ({who}), left out")
    if row.others > DISTURBED:
        notes.append(f"others used {row.others:.1f} cores")
    return "; ".join(notes)


def machine(postgres: str | None) -> str:
    """Where this ran, without naming the place."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{psutil.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, "
        + (f"Postgres {postgres}, " if postgres else "")
        + packages
    )
