"""Tabs that leave and come back at random, at two API processes, while answers are written."""

import os

import pytest

from tests.reconnects import reconnect
from tests.stack import Stack

COUNT = int(os.environ.get("RECONNECTS", "600"))


@pytest.mark.timeout(180 + COUNT // 10)
async def test_tabs_that_come_and_go_anywhere_end_with_exactly_the_uncut_blocks(
    shared: Stack,
) -> None:
    tally = await reconnect(shared, COUNT, seed=COUNT)
    assert tally.reconnects >= COUNT
    for kind in ("before the head was there", "inside a block or chunk", "between two blocks"):
        assert tally.visits[f"left {kind}"] > COUNT / 30, tally.visits
