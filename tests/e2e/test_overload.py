"""Ten times as many questions as can be answered: `tests.e2e.overload` does it for a minute."""

from pathlib import Path

from tests.conftest import NewDatabase
from tests.e2e.overload import overload


async def test_what_was_accepted_finishes_and_the_rest_is_told_when_to_come_back(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    report = await overload(await new_database(), tmp_path, sustain_s=3, rush_s=5)
    assert set(report.statuses) == {"completed"}, report
    assert report.statuses["completed"] == len(report.accepted) == report.answers["202"], report
    refused = set(report.answers) - {"202"}
    assert refused, report
    words = {"429 too_many_runs", "503 queue_full", "503 overloaded", "503 storage_unavailable"}
    assert refused <= words, report
    assert report.without_retry_after == 0, report
    assert report.well_after_s <= 10, report
