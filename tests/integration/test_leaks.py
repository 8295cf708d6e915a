"""What an API process holds after streams were opened and closed, again and again."""

from pathlib import Path

from tests.leaks import measure
from tests.stack import Stack


async def test_streams_that_come_and_go_leave_nothing_behind(
    shared: Stack, tmp_path: Path
) -> None:
    # On the shared database, but not among the shared processes.
    stack = Stack(shared.database_url, tmp_path / "leaks")
    try:
        found = await measure(stack, streams=100, cycles=6)
    finally:
        await stack.close()
    found.check()
