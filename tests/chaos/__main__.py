"""`python -m tests.chaos`: kill everything again and again, and check that nothing was lost."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.report import as_json
from tests.chaos.session import run


def main() -> int:
    """Return 1 when a promise was broken; what happened is then kept for whoever looks."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="how often to kill -9")
    parser.add_argument("--seed", type=int, default=1, help="of every choice")
    parser.add_argument("--wall-seconds", type=float, default=1500, help="kill no longer than")
    parser.add_argument("--students", type=int, default=4, help="who ask all the while")
    parser.add_argument(
        "--background", action="store_true", help="generations that survive their workers"
    )
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tutor-relay-chaos-"))
    report = asyncio.run(
        run(
            folder,
            kills=wanted.kills,
            seed=wanted.seed,
            wall_seconds=wanted.wall_seconds,
            students=wanted.students,
            background=wanted.background,
        )
    )
    print(report.text())
    print(as_json(report))
    if report.violations:
        print(f"logs and history are in {folder}")
        return 1
    if report.kills < wanted.kills:
        print("the time was up before enough was killed")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
