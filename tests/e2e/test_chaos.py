"""A short run of `make chaos`: everything is killed, nothing is lost."""

import pytest

from tests.chaos.report import Report
from tests.chaos.session import run

KILLS = 14
"""Each of the points once."""
SEED = 20


@pytest.fixture(scope="module")
async def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("chaos")
    return await run(folder, kills=KILLS, seed=SEED, wall_seconds=100, students=2)


@pytest.mark.timeout(300)
async def test_nothing_is_lost_whatever_is_killed(report: Report) -> None:
    assert not report.violations, report.text()


async def test_there_was_something_to_lose(report: Report) -> None:
    assert report.kills >= KILLS, report.text()
    for name in ("run completed", "op post ok", "reconnects", "upstream faults", "looks"):
        assert report.counts[name] > 0, report.text()
