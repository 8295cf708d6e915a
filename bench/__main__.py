"""`python -m bench`: every contender in one run, interleaved, on this machine."""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from bench import rows
from bench.client import Kind
from bench.postgres import database
from bench.processes import peak_rss_mib, tree_memory_mib
from bench.report import Report, machine
from bench.stage import Contender, Stage, stage


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 and 20 runs, one repeat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument(
        "--only",
        default=",".join(get_args(Kind)),
        help="contenders, comma separated: upstream,naive,relay",
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each row (default 5)")
    parser.add_argument(
        "--ramp",
        type=float,
        default=0.05,
        metavar="S",
        help="seconds over which the runs start (default: one token interval)",
    )
    return parser.parse_args()


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _measure(stage: Stage, arguments: argparse.Namespace, report: Report) -> None:
    quick: bool = arguments.quick
    report.machine = machine(stage.counters.version() if stage.counters else None)
    contenders = list(stage.contenders.values())
    loads = (1, 20) if quick else (1, 50, 100)
    for contender in contenders:
        _log(f"warming up {contender.kind}")
        rows.first_token(stage, contender, 5)
        # The first load opens connections and prepares statements: once in a process's life.
        rows.concurrent(stage, contender, loads[-1], arguments.ramp)
    found: dict[tuple[int, Kind], list[rows.Row]] = defaultdict(list)
    repeats = 1 if quick else arguments.repeats
    for repeat in range(repeats):
        for contender in contenders:  # interleaved: the machine's moods meet everybody
            _log(f"repeat {repeat + 1}: {contender.kind}, first tokens")
            for name, values in rows.first_token(stage, contender, 8).items():
                report.first.setdefault(contender.kind, {}).setdefault(name, []).extend(values)
        for load in loads:
            for contender in contenders:
                _log(f"repeat {repeat + 1}: {contender.kind}, {load} runs")
                row = rows.concurrent(stage, contender, load, arguments.ramp)
                found[load, contender.kind].append(row)
                report.summaries = [rows.summarise(repeats_) for repeats_ in found.values()]
    for contender in contenders:
        report.peak_mib |= _peaks(contender)
        _idle(stage, contender, report, 100 if quick else 1000)
    if "relay" in stage.contenders:
        _log("counting transactions")
        report.counts = rows.counts(stage, stage.contenders["relay"], 10 if quick else 40)


def _peaks(contender: Contender) -> dict[str, float]:
    peaks = {name: peak_rss_mib(pid) for name, pid in contender.pids.items() if name != "postgres"}
    if "postgres" in contender.pids:
        shared = tree_memory_mib(contender.pids["postgres"])
        if shared is not None:
            peaks["postgres (all processes, proportional, at the end)"] = shared
    return peaks


def _idle(stage: Stage, contender: Contender, report: Report, streams: int) -> None:
    if contender.kind == "upstream":
        return
    _log(f"{contender.kind}: {streams} idle streams")
    service = stage.fresh_api() if contender.kind == "relay" else stage.fresh_naive()
    report.idle_kib[contender.kind] = rows.idle(contender, service, streams)
    service.stop()


def main() -> int:
    """Measure, print, and say by the exit code nothing: a noisy machine is not a failure."""
    arguments = _arguments()
    only = arguments.only.split(",")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url = stack.enter_context(database(directory)) if "relay" in only else ""
        on_stage = stack.enter_context(stage(directory))
        if "naive" in only:
            on_stage.add_naive()
        if "relay" in only:
            on_stage.add_relay(url)
        if "upstream" not in only:
            del on_stage.contenders["upstream"]
        report = Report()
        try:
            _measure(on_stage, arguments, report)
        except Exception:
            # What was measured until then is still printed, and the logs die with the directory.
            _log(on_stage.last_words())
            print(report.markdown())
            raise
    print(report.markdown())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
