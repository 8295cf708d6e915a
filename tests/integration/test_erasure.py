"""Deleted is gone: sessions, files and users leave nothing upstream, whatever it answers."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.adapters.stores import WireStores
from app.container import make_upstream, make_upstream_files
from app.services.upkeep import UpkeepService
from app.settings import Settings
from tests.conftest import NewDatabase
from tests.integration.test_files import TEXT, kept, send
from tests.integration.test_pictures import part, show
from tests.stack import Client, Stack, running, until

FAULTY: dict[str, Any] = {"method": "DELETE", "path": "/v1/*"}
LEFT = """
SELECT (SELECT count(*) FROM upstream_objects WHERE deleted_at IS NULL)
    + (SELECT count(*) FROM upstream_threads WHERE deleted_at IS NULL)
"""


@pytest.fixture
async def stack(new_database: NewDatabase, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(await new_database(), tmp_path / "erasure", LOG_LEVEL="debug") as found:  # type: ignore[arg-type]
        yield found


async def sweep(stack: Stack, *, hurry: bool = True) -> None:
    """Do what a worker does four times a minute; what is to be tried again later is due now."""
    base = f"http://127.0.0.1:{stack.sandbox_port}/v1"
    settings = Settings(_env_file=None, openai_api_key="x", openai_base_url=base)  # type: ignore[call-arg, arg-type]
    database = PostgresDatabase(stack.database_url, pool_size=2)
    upstream, files = make_upstream(settings, database), make_upstream_files(settings)
    if hurry:
        await make_due(stack)
    stores, retention = WireStores(files), timedelta(days=1)
    await UpkeepService(database, upstream, files, stores, retention=retention).sweep()
    for used in (files, upstream, database):
        await used.aclose()


async def delete_user(stack: Stack, user: str) -> tuple[int, str]:
    """Run the command; return its exit status, and what it said."""
    process = stack.start("delete-user", "--user", user)
    return await process.exit(within=60), process.log.read_text()


async def make_due(stack: Stack) -> None:
    """Let what is to be tried again later be due now."""
    for table in ("threads", "objects"):
        await stack.fetch(
            f"UPDATE upstream_{table} SET retry_at = now() WHERE deleted_at IS NULL"  # noqa: S608
        )


async def emptied(stack: Stack) -> bool:
    """Whether sandbox and ledger hold nothing any more."""
    await sweep(stack)
    found = await stack.admin("GET", "stats")
    there = [found[name] for name in ("conversations", "items", "responses", "files", "stores")]
    there.append(found["items_of_deleted_conversations"])
    return not any(there) and not await stack.fetchval(LEFT)


async def life(client: Client, canary: str) -> dict[str, Any]:
    """Do what leaves something in every place."""
    text = await send(client, f"{canary}.txt", TEXT + canary.encode())
    session = await client.open_session(title=canary)
    words = {"type": "text", "text": f"Please: {canary}"}
    run, _ = await show(client, session, words, part("file", text))
    assert run["status"] == "completed"
    run, _ = await client.ask(session, "Explain it.", within=60)
    assert run["status"] == "completed"
    return {"session": session, "file": text["id"]}


def canary() -> str:
    return f"canary{uuid.uuid4().hex[:12]}"


async def everything(stack: Stack) -> str:
    """All rows of all tables, as text."""
    tables = await stack.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [
        row[0]
        for (table,) in tables
        for row in await stack.fetch(f'SELECT t::text FROM "{table}" t')  # noqa: S608 - our names
    ]
    return "\n".join(rows)


async def test_a_deleted_session_takes_its_files_with_it(stack: Stack) -> None:
    client, word = stack.client(), canary()
    made = await life(client, word)
    shared_file = await send(client, "both.txt", TEXT)
    other = await client.open_session()
    await show(client, other, part("file", shared_file))
    await show(client, made["session"], part("file", shared_file))
    spare = await send(client, "spare.txt", TEXT)
    rules = [
        {**FAULTY, "times": 3, "action": {"type": "status", "status": 500}},
        {**FAULTY, "times": 2, "action": {"type": "reset"}},
        {**FAULTY, "times": 2, "action": {"type": "status", "status": 503, "after_work": True}},
    ]
    await stack.admin("POST", "faults", rules)
    await client.call("DELETE", f"/v1/sessions/{made['session']}", 204)
    await client.call("GET", f"/v1/files/{made['file']}", 404)
    left = [item["id"] for item in (await client.call("GET", "/v1/files", 200))["data"]]
    assert sorted(left) == sorted([shared_file["id"], spare["id"]])

    async def is_gone() -> bool:
        await sweep(stack)
        rows = await stack.fetch("SELECT * FROM sessions WHERE id = $1", made["session"])
        return not rows and (await kept(stack, made["file"]))["deleted_at"] is not None

    await until(is_gone, within=120)
    assert word not in await everything(stack)
    found = await stack.admin("GET", "stats")
    assert (found["conversations"], found["files"], found["responses"]) == (1, 2, 1)
    # What goes on goes on.
    run, _ = await client.ask(other, "Explain it.", within=60)
    assert run["status"] == "completed"
    await client.call("DELETE", f"/v1/sessions/{other}", 204)
    await client.call("DELETE", f"/v1/files/{spare['id']}", 204)
    await until(lambda: emptied(stack), within=120)
    assert word not in stack.logs()


async def test_a_deleted_user_leaves_nothing(stack: Stack) -> None:
    word = canary()
    client, other = stack.client(), stack.client()
    made = await life(client, word)
    theirs = await life(other, "theirs")
    for name in (f"{word}-unused.txt", "second.txt"):
        await send(client, name, TEXT)
    before = await client.call("GET", "/v1/me", 200)
    rule = {**FAULTY, "times": 4, "action": {"type": "status", "status": 500}}
    await stack.admin("POST", "faults", rule)
    status, said = await delete_user(stack, client.user)
    assert status == 0, said
    # A thread, two generations, three files.
    assert f"{before['id']} is deleted, with 1 sessions. 6 things" in said
    await client.call("GET", f"/v1/sessions/{made['session']}", 404)
    await client.call("GET", f"/v1/files/{made['file']}", 404)

    async def is_gone() -> bool:
        await sweep(stack)
        left = "SELECT count(*) FROM upstream_objects WHERE user_id = $1 AND deleted_at IS NULL"
        rows = await stack.fetch("SELECT * FROM sessions WHERE id = $1", made["session"])
        return not rows and not await stack.fetchval(left, before["id"])

    await until(is_gone, within=120)
    assert word not in await everything(stack)
    assert client.user not in await everything(stack)
    record = await stack.fetch(
        "SELECT kind FROM upstream_objects WHERE user_id = $1 AND deleted_at IS NOT NULL",
        before["id"],
    )
    assert sorted(row["kind"] for row in record) == ["file"] * 3 + ["response"] * 2
    found = await stack.admin("GET", "stats")
    assert (found["conversations"], found["files"], found["responses"]) == (1, 1, 2)
    assert (await other.call("GET", f"/v1/files/{theirs['file']}", 200))["id"] == theirs["file"]
    status, said = await delete_user(stack, client.user)
    assert status == 2
    assert "no such user" in said
    # What a process still took for the old user goes too, and then the row itself.
    await client.open_session(title=word)
    await stack.fetch(
        "UPDATE users SET deleted_at = now() - interval '2 hours' WHERE deleted_at IS NOT NULL"
    )

    async def is_forgotten() -> bool:
        await sweep(stack)
        rows = await stack.fetch("SELECT * FROM users WHERE id = $1", before["id"])
        return not rows

    await until(is_forgotten, within=60)
    assert word not in await everything(stack)
    assert word not in stack.logs()


async def test_the_ledger_waits_longer_each_time(stack: Stack) -> None:
    client = stack.client()
    stack.processes[-1].kill()
    file = await send(client)
    rule = {**FAULTY, "times": None, "action": {"type": "status", "status": 500}}
    await stack.admin("POST", "faults", rule)
    await client.call("DELETE", f"/v1/files/{file['id']}", 204)
    waits: list[float] = []
    for attempt in range(1, 4):
        await sweep(stack)
        assert (await kept(stack, file["id"]))["attempts"] == attempt
        await sweep(stack, hurry=False)
        query = "SELECT extract(epoch FROM retry_at - now())::float8 FROM upstream_objects"
        waits.append(await stack.fetchval(query))
    # 2, 4 and 8 s, give or take a quarter; what is not due is not tried.
    assert waits[0] <= 2.5
    assert waits[1] <= 5
    assert waits[2] <= 10
    assert max(waits) == waits[2]
    assert (await kept(stack, file["id"]))["deleted_at"] is None
    await stack.admin("DELETE", "faults")
    await until(lambda: emptied(stack), within=60)
