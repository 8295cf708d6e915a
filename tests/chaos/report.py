"""What a run of chaos did, and what it found."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.recorder import History
from tests.chaos.truth import Truth
from tests.e2e.invariants import CANARY_KEY, Violation

SHOWN: Final = 40
CANARY: Final = "canary"
"""Every question holds a word that begins like this; none belongs into a log."""


@dataclass
class Report:
    """Counts and violations of one run."""

    seed: int
    seconds: float = 0.0
    kills: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    violations: list[Violation] = field(default_factory=list[Violation])

    def tally(self, history: History, truth: Truth) -> None:
        """Count what the clients did and what became of it."""
        counts = self.counts
        for op in history.operations:
            counts[f"op {op.kind} {op.outcome}"] += 1
        for run in truth.runs.values():
            counts[f"run {run.body['status']}"] += 1
            error = run.body["last_error"]
            if error:
                counts[f"reason {error['code']}, {run.body['attempts']} attempts"] += 1
        counts["readings"] = len(history.readings)
        counts["blocks read"] = sum(len(reading.blocks) for reading in history.readings)
        counts["looks"] = len(history.looks)
        counts["events"] = sum(map(len, truth.log.values()))
        counts["upstream POSTs"] = len(truth.posts)

    def text(self) -> str:
        """Print it for people."""
        lines = [f"seed {self.seed}: {self.kills} kills in {self.seconds:.0f} s"]
        lines += [f"  {name:40}{self.counts[name]:8}" for name in sorted(self.counts)]
        lines.append(f"  {'violations':40}{len(self.violations):8}")
        lines += [f"  ! {found}" for found in self.violations[:SHOWN]]
        return "\n".join(lines)


def check_logs(logs: Mapping[str, str]) -> list[Violation]:
    """Find tracebacks, secrets and students' words in what the processes logged."""
    found: list[Violation] = []
    for name, log in logs.items():
        for line in log.splitlines():
            found += [Violation("log", name, why) for why in _wrong(line)]
    return found


def _wrong(line: str) -> list[str]:
    why = []
    if "Traceback" in line or '"traceback"' in line:
        why.append(f"a traceback: {line[-1500:]}")
    if CANARY_KEY in line:
        why.append("the upstream's key")
    if CANARY in line.replace(CANARY_KEY, ""):
        why.append("a student's words")
    if "Bearer ey" in line:
        why.append("a token")
    return why


def unexpected(failures: Sequence[str]) -> list[Violation]:
    """Tell of processes that did not end as they were asked to."""
    return [Violation("process", failure.partition(" ")[0], failure) for failure in failures]


def as_json(report: Report) -> str:
    """Print it for machines."""
    counts = dict(sorted(report.counts.items()))
    body = {"seed": report.seed, "kills": report.kills, "seconds": round(report.seconds)}
    return json.dumps(body | {"violations": len(report.violations), "counts": counts})
