"""Imported conversations go on, are whole after a kill, and may come from our own face."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import openai
import pytest
from openai import AsyncOpenAI

from tests.conftest import NewDatabase
from tests.e2e.crew import follow
from tests.e2e.invariants import check, check_logs
from tests.e2e.test_dialogue import FIRST, SECOND, assert_both_roots, assert_explains
from tests.exported import begun, dialogue, named, run, said, take
from tests.stack import ROOT, Client, Stack, running, token, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANSWER = "근의 공식을 쓰면 x = (-11 ± √241)/6 입니다."
DOCUMENT = (ROOT / "docs" / "importing.md").read_text()


@pytest.fixture(scope="module")
async def shared(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A stack of our own: its whole database is checked, which others edit as clients may."""
    folder = tmp_path_factory.mktemp("importing")
    async with running(await new_database(), folder, apis=2) as stack:
        yield stack


def lesson(thread_id: str, *, before: int = 0, is_bare: bool = False) -> list[dict[str, Any]]:
    """The tutorial's first turn, after so many other ones; bare, no run is told of at all."""
    told = dialogue(thread_id, turns=before)
    start = 10 * before
    told += [
        said(start, FIRST, of=thread_id),
        run(start + 1, of=thread_id),
        said(start + 2, ANSWER, of=thread_id, run_id=f"run_{thread_id}_{start + 1}"),
    ]
    if not is_bare:
        return told
    return [
        item | {"run_id": None} if item["object"] == "thread.message" else item
        for item in told
        if item["object"] != "thread.run"
    ]


@pytest.mark.parametrize("is_bare", [False, True], ids=["with runs", "messages alone"])
@pytest.mark.parametrize("before", [0, 40])
async def test_an_imported_session_goes_on_in_context(
    shared: Stack, tmp_path: Path, *, before: int, is_bare: bool
) -> None:
    client, thread_id = shared.client(), named()
    objects = lesson(thread_id, before=before, is_bare=is_bare)
    done = await take(shared.database_url, tmp_path, objects, user=client.user)
    assert done.code == 0, done.errors
    session = done.sessions()[thread_id]
    asked, answer = await client.ask(session, SECOND)
    assert asked["status"] == "completed", asked
    assert_explains(answer)
    # The thread is known upstream from here on: nothing is told twice.
    again, answer = await client.ask(session, "2 + 2 = ?")
    assert (again["status"], again["attempts"]) == ("completed", 1)
    assert "4" in answer
    query = "SELECT count(*) FROM upstream_threads WHERE session_id = $1"
    assert await shared.fetchval(query, session) == 1
    await check(shared.database_url, ended=False)
    check_logs(shared.logs(), FIRST, SECOND, ANSWER)


async def test_text_that_postgres_refuses_is_no_obstacle(shared: Stack, tmp_path: Path) -> None:
    client, thread_id = shared.client(), named()
    objects = lesson(thread_id)
    objects[1]["content"][0]["text"]["value"] = f"\x00\ud800{FIRST}"
    objects[0]["metadata"] = {"a\u3000b": "\udfff\x00"}
    done = await take(shared.database_url, tmp_path, objects, user=client.user)
    assert done.code == 0, done.errors
    session = done.sessions()[thread_id]
    found = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert found["metadata"] == {"a\u3000b": "\ufffd\ufffd"}
    _, answer = await client.ask(session, SECOND)
    assert_explains(answer)


async def test_old_deltas_are_pruned_like_all_others_and_readers_are_told(
    shared: Stack, tmp_path: Path
) -> None:
    client, thread_id = shared.client(), named()
    done = await take(shared.database_url, tmp_path, lesson(thread_id), user=client.user)
    session = done.sessions()[thread_id]

    async def is_pruned() -> bool:
        query = "SELECT bool_and(pruned) FROM runs WHERE session_id = $1"
        return bool(await shared.fetchval(query, session))

    await until(is_pruned, within=90, every=0.5)
    path = f"/v1/sessions/{session}/events?after=0"
    (reset,) = await follow(path, client, is_over=lambda seen: len(seen) == 1)
    listed = await client.call("GET", f"/v1/sessions/{session}/messages", 200)
    told = json.loads(reset.data)
    assert reset.event == "reset"
    assert {m["id"]: m for m in told["messages"]} == {m["id"]: m for m in listed["data"]}
    assert (told["seq"], told["run"]) == (listed["last_seq"], None)
    _, answer = await client.ask(session, SECOND)
    assert_explains(answer)


async def test_students_are_answered_while_an_import_goes_on(
    shared: Stack, tmp_path: Path
) -> None:
    client = shared.client()
    threads = [named() for _ in range(150)]
    objects = [item for name in threads for item in dialogue(name, turns=4)]
    importing = asyncio.create_task(take(shared.database_url, tmp_path, objects, user=client.user))
    asked = 0
    while not importing.done() or asked == 0:
        session = await client.open_session()
        run_, answer = await client.ask(session, "2 + 2 = ?")
        assert (run_["status"], "4" in answer) == ("completed", True)
        asked += 1
    done = await importing
    assert (done.code, done.fates()) == (0, {"taken": 150})
    assert (
        await shared.fetchval(
            "SELECT count(*) FROM sessions WHERE id = ANY($1)", list(done.sessions().values())
        )
        == 150
    )
    await check(shared.database_url, ended=False)


async def contents(url: str) -> dict[str, Any]:
    """Return what was imported, by the source's id, without the ids and instants of here."""
    connection = await asyncpg.connect(url)
    columns = {
        "messages": "role, status, content, meta, seq, turn, created_at, completed_at, "
        "run_id IS NULL AS is_said",
        "runs": "status, model, seq, turn, usage, last_error, created_at, started_at, ended_at",
        "events": "seq, type",
    }
    try:
        found: dict[str, Any] = {}
        for name, picked in columns.items():
            rows = await connection.fetch(
                f"SELECT i.source_id, t.* FROM imported_threads i JOIN "  # noqa: S608
                f"(SELECT session_id, {picked} FROM {name}) t USING (session_id) ORDER BY 1, seq"
            )
            for row in rows:
                values = {k: v for k, v in row.items() if k not in {"session_id", "source_id"}}
                found.setdefault(row["source_id"], []).append((name, values))
        counts = {
            name: await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608
            for name in ("users", "sessions", "messages", "runs", "events", "imported_threads")
        }
        return {"threads": found, "counts": counts}
    finally:
        await connection.close()


async def test_an_import_that_was_killed_is_whole_after_the_next(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    """Long threads are written in several statements: a kill in their midst leaves nothing."""
    objects = [item for n in range(60) for item in dialogue(f"thread_{n}", turns=120)]
    killed, whole = [await new_database() for _ in range(2)]
    connection = await asyncpg.connect(killed)
    try:
        for share in (5, 25, 45):
            process = await begun(killed, tmp_path, objects)

            async def is_under_way(share: int = share) -> bool:
                return await connection.fetchval("SELECT count(*) FROM imported_threads") >= share

            await until(is_under_way, within=90, every=0.005)
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            assert process.returncode == -signal.SIGKILL
            await check(killed)
    finally:
        await connection.close()
    done = await take(killed, tmp_path, objects)
    assert done.code == 0
    assert done.fates()["taken"] + done.fates()["unchanged"] == 60
    assert done.fates()["taken"] < 60
    assert (await take(whole, tmp_path, objects)).fates() == {"taken": 60}
    assert await contents(killed) == await contents(whole)
    await check(killed)


async def test_a_stopped_import_ends_in_order_and_says_so(
    database_url: str, tmp_path: Path
) -> None:
    objects = [item for n in range(400) for item in dialogue(f"thread_{n}", turns=10)]
    process = await begun(database_url, tmp_path, objects)
    connection = await asyncpg.connect(database_url)
    try:

        async def is_under_way() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM imported_threads"))

        await until(is_under_way, within=60, every=0.01)
        process.send_signal(signal.SIGTERM)
        out, errors = await asyncio.wait_for(process.communicate(), 60)
        taken = json.loads(out)["threads"]["taken"]
        assert process.returncode == 1
        assert b"start it again" in errors
        assert 0 < taken < 400
        assert await connection.fetchval("SELECT count(*) FROM imported_threads") == taken
    finally:
        await connection.close()


def snippet() -> str:
    """The program of the document that exports threads."""
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(code)


async def exported(url: str, key: str, *thread_ids: str) -> list[bytes]:
    """Run it."""
    env = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", snippet()),
        env=env | {"OPENAI_BASE_URL": f"{url}/openai/v1", "OPENAI_API_KEY": key},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate("\n".join(thread_ids).encode()), 90)
    assert process.returncode == 0, errors.decode()
    return out.splitlines()


async def shown(sdk: AsyncOpenAI, thread_id: str) -> Any:
    """Return all that the face shows of a thread, its ids replaced by places."""
    threads = sdk.beta.threads
    found: list[Any] = [await threads.retrieve(thread_id)]
    found += [item async for item in threads.messages.list(thread_id, order="asc")]
    found += [item async for item in threads.runs.list(thread_id, order="asc")]
    text = json.dumps([item.to_dict() for item in found])
    for place, item in enumerate(found):
        text = text.replace(item.id, f"id-{place}")
    return json.loads(text)


@pytest.fixture
async def other(new_database: NewDatabase, tmp_path: Path) -> AsyncIterator[Stack]:
    """An instance with a database of its own."""
    stack = Stack(await new_database(), tmp_path / "other")
    try:
        await stack.start_api()
        yield stack
    finally:
        await stack.close()


async def spoken(client: Client) -> str:
    """Hold a conversation in which all kinds of things happen."""
    session = await client.open_session(metadata={"topic": "algebra"})
    run_, text = await client.ask(session, FIRST)
    assert_both_roots(text)
    assert run_["status"] == "completed"
    await client.ask(session, SECOND)
    await client.post(session, "By the way:", run=False, metadata={"from": "phone"})
    posted = await client.post(session, "2 + 2 = ?", on_active_run="enqueue")
    path = f"/v1/sessions/{session}/runs/{posted['run']['id']}"
    await client.http.post(f"{path}/cancel")
    await client.ended(session, posted["run"]["id"])
    await client.call("POST", f"/v1/sessions/{session}/runs", 202, json={"metadata": {"n": "2"}})

    async def is_idle() -> bool:
        listed = await client.call("GET", f"/v1/sessions/{session}/runs", 200)
        return all(one["ended_at"] is not None for one in listed["data"])

    await until(is_idle)
    return session


async def test_what_one_instance_exports_another_shows_just_so(
    shared: Stack, other: Stack, tmp_path: Path
) -> None:
    client = shared.client()
    session = await spoken(client)
    lines = await exported(shared.api_urls[0], client.token, session)
    done = await take(other.database_url, tmp_path, lines, user=client.user)
    assert (done.code, done.report()) == (0, [])
    taken = done.sessions()[session]
    faces = [
        AsyncOpenAI(
            api_key=token(client.user),
            base_url=f"{stack.api_urls[0]}/openai/v1",
            max_retries=0,
            _strict_response_validation=True,
        )
        for stack in (shared, other)
    ]
    try:
        assert await shown(faces[1], taken) == await shown(faces[0], session)
        with pytest.raises(openai.NotFoundError):
            await faces[1].beta.threads.retrieve(session)
    finally:
        await asyncio.gather(*(face.close() for face in faces))
    await check(other.database_url)
