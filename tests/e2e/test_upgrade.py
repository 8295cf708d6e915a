"""Rolling upgrades: the schema grows under processes that do not know the new one."""

import asyncio
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.conftest import NewDatabase, execute
from tests.e2e.crew import QUESTION, WORD, all_end, ask_at_once, follow, hire, started, under_way
from tests.e2e.invariants import check, check_logs, check_reader
from tests.stack import ROOT, Stack

# As the next release may: columns and tables are added, and nothing is taken away.
EXPAND = """
ALTER TABLE sessions ADD COLUMN mood text;
ALTER TABLE runs ADD COLUMN cost bigint NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN language text;
ALTER TABLE events ADD COLUMN trace text;
CREATE TABLE feedback (id text PRIMARY KEY, run_id text);
UPDATE alembic_version SET version_num = '9999';
"""


def git(*arguments: str) -> bytes:
    """Run git in this checkout; nothing where there is none."""
    program = shutil.which("git")
    if program is None:
        return b""
    return subprocess.run([program, *arguments], cwd=ROOT, check=False, capture_output=True).stdout


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The last release's checkout."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*").decode().strip()
    if not tag:
        pytest.skip("this checkout knows no release: no tag v*")
    folder = tmp_path / tag
    archive = git("archive", "--format=tar", tag, "app", "migrations", "alembic.ini")
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


async def assert_dialogue(stack: Stack, *, at: int) -> None:
    """Ask twice at one API process; follow the session at all of them."""
    alice = stack.client(at=at)
    session = await alice.open_session()
    first, text = await alice.ask(session, QUESTION)
    assert (first["status"], "241" in text) == ("completed", True)
    again, text = await alice.ask(session, "Please explain that in more detail.")
    assert (again["status"], "241" in text) == ("completed", True)
    for place in range(len(stack.api_urls)):
        reader = stack.client(at=place, user=alice.user)
        path = f"/v1/sessions/{session}/events?after=0"
        blocks = await follow(path, reader, is_over=lambda b: b[-1].data.count(again["id"]) > 0)
        await check_reader(stack.database_url, session, blocks)


async def test_the_last_release_works_on_the_newest_schema_alone_and_beside_the_new_one(
    release: Path, new_database: NewDatabase, tmp_path: Path
) -> None:
    async with started(await new_database(), tmp_path / "stack", apis=0) as stack:
        stack.root = release
        await stack.start_api()
        old = await hire(stack)
        await assert_dialogue(stack, at=0)
        # The new ones come, and share the work; then the old worker goes.
        stack.root = ROOT
        await stack.start_api()
        await hire(stack)
        asked = [*await ask_at_once(stack, 10, at=0), *await ask_at_once(stack, 10, at=1)]
        rows = await all_end(stack, asked)
        assert {row["status"] for row in rows} == {"completed"}
        old.process.kill()
        await assert_dialogue(stack, at=0)
        await assert_dialogue(stack, at=1)
        await check(stack.database_url)
        check_logs(stack.logs(), WORD)


async def test_the_schema_grows_while_runs_stream_and_processes_start_again_on_it(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    async with started(await new_database(), tmp_path / "stack", pace=40) as stack:
        await hire(stack)
        asked = await ask_at_once(stack, 5)
        readers = [asyncio.create_task(follow(each.events, each.client)) for each in asked]
        await under_way(stack, asked)
        await execute(stack.database_url, EXPAND)
        rows = await all_end(stack, asked)
        assert {(row["status"], row["attempts"]) for row in rows} == {("completed", 1)}
        for each, blocks in zip(asked, await asyncio.gather(*readers), strict=True):
            await check_reader(stack.database_url, each.session, blocks)
        assert (await asked[0].client.http.get("/readyz")).status_code == 200
        await stack.start_api()
        await hire(stack)
        await assert_dialogue(stack, at=1)
        await check(stack.database_url)
        check_logs(stack.logs(), WORD)
