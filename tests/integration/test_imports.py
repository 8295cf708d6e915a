"""Exported threads become sessions: what they hold, whose they are, each once."""

import asyncio
import json
import os
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.adapters.exports.file import opened
from app.adapters.postgres.database import PostgresDatabase
from app.domain.history import Loss
from app.domain.models import Principal
from app.services.imports import Fate, ImportService, Taken, Tutors
from tests.conftest import NewDatabase, execute
from tests.e2e.crew import follow
from tests.e2e.invariants import check, shown
from tests.exported import T0, WORDS, begun, dialogue, named, run, said, take, thread, written
from tests.stack import Client, Stack, blocks_of, until

AT = "2024-07-31T15:52:11.000000Z"
"""T0, as the API writes it."""


async def take_here(
    url: str, folder: Path, *objects: Any, user: str = "alice", tutors: Tutors | None = None
) -> tuple[list[Taken], list[Loss]]:
    """Take some lines in this process."""
    file = folder / "export.jsonl"
    file.write_bytes(written(objects))
    database = PostgresDatabase(url, pool_size=2)
    service = ImportService(database)
    owner = Principal(user, None, frozenset(), 0)
    losses: list[Loss] = []
    try:
        with opened(str(file), losses.append) as export:
            for _ in export.scan():
                pass
            taken = [
                await service.take(found, owner, tutors or Tutors(), dry_run=False)
                for found in export.threads()
            ]
    finally:
        await database.aclose()
    return taken, losses


async def everything(client: Client, session: str, kind: str) -> list[dict[str, Any]]:
    """Return a session's messages or runs, oldest first."""
    params: dict[str, Any] = {"order": "asc", "limit": 100}
    path = f"/v1/sessions/{session}/{kind}"
    found: list[dict[str, Any]] = []
    while True:
        page = await client.call("GET", path, 200, params=params)
        found += page["data"]
        if not page["has_more"]:
            return found
        params["after"] = page["last_id"]


def text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"])


@pytest.fixture(scope="module")
async def front(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """An API alone: no worker prunes the deltas of runs that ended years ago."""
    stack = Stack(await new_database(), tmp_path_factory.mktemp("front"))
    try:
        await stack.start_api()
        yield stack
    finally:
        await stack.close()


def assert_retold(messages: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    assert [(m["role"], text(m)) for m in messages] == [
        ("user", "first"),
        ("assistant", "onetwo"),
        ("assistant", "hello"),
        ("user", "second"),
        ("user", "third"),
    ]
    question, answer, *_ = messages
    assert question["created_at"] == question["completed_at"] == AT
    assert question["metadata"] == {"from": "phone"}
    assert [part["text"] for part in answer["content"]] == ["one", "two"]
    (note,) = answer["content"][1]["annotations"]
    place = {"text": "[1]", "start_index": 0, "end_index": 3}
    assert note == {"type": "file_citation", "file_id": "file_1"} | place
    assert answer["completed_at"] == AT.replace("11.", "16.")
    first, failed = runs
    assert (first["status"], failed["status"]) == ("completed", "failed")
    assert first["input_message_id"] == question["id"]
    assert first["output_message_id"] == answer["id"]
    assert first["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert (first["model"], first["attempts"], first["metadata"]) == ("gpt-4o", 0, {"trial": "a"})
    assert first["created_at"] == first["started_at"] == AT.replace("11.", "12.")
    assert first["ended_at"] == AT.replace("11.", "16.")
    assert failed["input_message_id"] == messages[3]["id"]
    assert failed["last_error"]["code"] == "upstream_error"


async def test_poll_stream_and_transcript_of_an_imported_session_agree(
    front: Stack, tmp_path: Path
) -> None:
    client = front.client()
    thread_id = named()
    note = {"type": "file_citation", "text": "[1]", "start_index": 0, "end_index": 3}
    note["file_citation"] = {"file_id": "file_1"}
    objects = [
        thread(thread_id, metadata={"topic": "algebra"}),
        said(0, "first", of=thread_id, metadata={"from": "phone"}),
        run(1, of=thread_id, completed_at=T0 + 5, metadata={"trial": "a"}),
        said(2, "one", of=thread_id, run_id=f"run_{thread_id}_1", completed_at=T0 + 3),
        said(4, "two", of=thread_id, run_id=f"run_{thread_id}_1", completed_at=T0 + 5),
        said(6, "hello", of=thread_id, role="assistant"),
        said(7, "second", of=thread_id),
        run(8, of=thread_id, status="failed", completed_at=None, failed_at=T0 + 9)
        | {"last_error": {"code": "server_error", "message": WORDS}},
        said(10, "third", of=thread_id),
    ]
    objects[4]["content"][0]["text"]["annotations"] = [note]
    done = await take(front.database_url, tmp_path, objects[::-1], user=client.user)
    assert (done.code, done.fates(), done.report()) == (0, {"taken": 1}, [])
    assert (done.summary["messages"], done.summary["runs"]) == (6, 2)
    session = done.sessions()[thread_id]

    body = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert body["metadata"] == {"topic": "algebra"}
    assert (body["created_at"], body["active_run_id"], body["status"]) == (AT, None, "open")
    (listed,) = (await client.call("GET", "/v1/sessions", 200))["data"]
    assert listed == body

    messages = await everything(client, session, "messages")
    runs = await everything(client, session, "runs")
    assert_retold(messages, runs)
    first, answer = runs[0], messages[1]
    assert await client.run(session, first["id"]) == first

    # The log tells the same: from the start, and of each run.
    path = f"/v1/sessions/{session}/events?after=0"
    blocks = await follow(path, client, is_over=lambda seen: len(seen) >= body["last_seq"])
    events = [json.loads(block.data) for block in blocks]
    assert [event["seq"] for event in events] == list(range(1, body["last_seq"] + 1))
    told = {e["message"]["id"]: e["message"] for e in events if "message" in e}
    assert list(told.values()) == messages
    assert {e["run"]["id"]: e["run"] for e in events if "run" in e} == {r["id"]: r for r in runs}
    grown = shown(e for e in events if e.get("message_id") == answer["id"])
    assert grown == {0: "one", 1: "two"}
    stream = await client.stream(f"/v1/sessions/{session}/runs/{first['id']}/events")
    assert [block.event for block in blocks_of(stream)] == [
        "message.created",
        "run.queued",
        "run.in_progress",
        "message.created",
        "message.delta",
        "message.delta",
        "message.completed",
        "run.completed",
        "done",
    ]
    await check(front.database_url)


CASES: dict[str, tuple[list[Any], list[tuple[str, str, str]], list[tuple[str, str | None]]]] = {
    "nothing at all": ([thread()], [], []),
    "messages without their thread": ([said(0, "a")], [("user", "a", "completed")], []),
    "an answer whose run is missing": (
        [said(0, "a"), said(1, "b", run_id="run_1")],
        [("user", "a", "completed"), ("assistant", "b", "completed")],
        [("completed", None)],
    ),
    "a cut answer whose run is missing": (
        [said(0, "a"), said(1, "b", run_id="run_1", status="incomplete")],
        [("user", "a", "completed"), ("assistant", "b", "incomplete")],
        [("incomplete", "unknown")],
    ),
    "an answer that was filtered": (
        [
            said(0, "a"),
            run(1, status="incomplete", completed_at=None),
            said(2, "b", run_id="run_thread_1_1", status="incomplete")
            | {"incomplete_details": {"reason": "content_filter"}},
        ],
        [("user", "a", "completed"), ("assistant", "b", "incomplete")],
        [("incomplete", "content_filter")],
    ),
    "a run that was cut by its bound": (
        [run(1, status="incomplete", incomplete_details={"reason": "max_completion_tokens"})],
        [],
        [("incomplete", "max_output_tokens")],
    ),
    "a completed run without an answer": (
        [said(0, "a"), run(1)],
        [("user", "a", "completed"), ("assistant", "", "completed")],
        [("completed", None)],
    ),
    "a run that was under way": (
        [
            said(0, "a"),
            run(1, status="in_progress", completed_at=None),
            said(2, "b", run_id="run_thread_1_1", status="in_progress"),
        ],
        [("user", "a", "completed"), ("assistant", "b", "incomplete")],
        [("expired", "run_unfinished")],
    ),
    "a run that waited for a function": (
        [said(0, "a"), run(1, status="requires_action", completed_at=None)],
        [("user", "a", "completed")],
        [("expired", "run_unfinished")],
    ),
    "a run that was never begun": (
        [said(0, "a"), run(1, status="queued", started_at=None, completed_at=None)],
        [("user", "a", "completed")],
        [("expired", "run_unfinished")],
    ),
    "a run that was being cancelled": (
        [said(0, "a"), run(1, status="cancelling", completed_at=None)],
        [("user", "a", "completed")],
        [("cancelled", None)],
    ),
    "a cancelled run that had said something": (
        [
            said(0, "a"),
            run(1, status="cancelled", cancelled_at=T0 + 3),
            said(2, "b", run_id="run_thread_1_1", status="incomplete"),
        ],
        [("user", "a", "completed"), ("assistant", "b", "incomplete")],
        [("cancelled", None)],
    ),
    "a run that expired": (
        [run(1, status="expired", expires_at=T0 + 600, completed_at=None)],
        [],
        [("expired", "run_timeout")],
    ),
    "a failed run before an answer": (
        [
            said(0, "a"),
            run(1, status="failed", failed_at=T0 + 1),
            run(2),
            said(3, "b", run_id="run_thread_1_2"),
        ],
        [("user", "a", "completed"), ("assistant", "b", "completed")],
        [("failed", "upstream_error"), ("completed", None)],
    ),
    "a question while nothing answers": (
        [said(0, "a"), said(1, "b", content=[]), said(2, "c")],
        [("user", "a", "completed"), ("user", "", "completed"), ("user", "c", "completed")],
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_every_kind_of_turn_is_retold_as_if_it_had_been_held_here(
    front: Stack, tmp_path: Path, name: str
) -> None:
    objects, messages, runs = CASES[name]
    client = front.client()
    renamed = json.loads(json.dumps(objects).replace("thread_1", named()))
    (taken,), losses = await take_here(front.database_url, tmp_path, *renamed, user=client.user)
    assert (taken.fate, losses) == (Fate.TAKEN, [])
    told = await everything(client, taken.session_id, "messages")
    assert [(m["role"], text(m), m["status"]) for m in told] == messages
    found = await everything(client, taken.session_id, "runs")
    reasons = [
        (one["last_error"] or {}).get("code") or (one["incomplete_details"] or {}).get("reason")
        for one in found
    ]
    assert [(r["status"], why) for r, why in zip(found, reasons, strict=True)] == runs
    await check(front.database_url)


STATUSES = [
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]


def any_thread(chance: random.Random, of: str) -> list[dict[str, Any]]:
    """A thread such as no server ever had: instants collide, answers and runs are missing."""
    runs = [
        run(n, of=of, status=chance.choice(STATUSES), created_at=T0 + chance.randrange(8))
        | {"started_at": chance.choice([None, T0 + 1]), "usage": None}
        for n in range(chance.randrange(5))
    ]
    if runs and chance.random() < 0.3:
        runs[0]["incomplete_details"] = {"reason": "max_completion_tokens"}
    writers = [one["id"] for one in runs] + [f"run_{of}_lost"]
    messages = [
        said(n, chance.choice(["", "a", "b c"]), of=of, created_at=T0 + chance.randrange(8))
        | {"status": chance.choice([None, "completed", "incomplete", "in_progress"])}
        | chance.choice(
            [{}, {"role": "assistant"}, {"role": "assistant", "run_id": chance.choice(writers)}]
        )
        for n in range(chance.randrange(9))
    ]
    told = [*messages, *runs, *([thread(of)] if chance.random() < 0.8 else [])]
    chance.shuffle(told)
    return told


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_a_thread_is_like_its_session_keeps_all_promises(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a thread is no secret
    threads = {f"thread_{n}": any_thread(chance, f"thread_{n}") for n in range(150)}
    threads = {name: told for name, told in threads.items() if told}
    taken, losses = await take_here(
        database_url, tmp_path, *(item for told in threads.values() for item in told)
    )
    assert losses == []
    assert [one.fate for one in taken] == [Fate.TAKEN] * len(threads)
    await check(database_url)
    for name, told in threads.items():
        rows = await imported(database_url, name)
        messages = [item for item in told if item["object"] == "thread.message"]
        writers = {item["run_id"] for item in messages} - {None}
        known = {item["id"] for item in told if item["object"] == "thread.run"}
        without_run = [item for item in messages if item["run_id"] is None]
        assert len(rows["runs"]) == len(known | writers)
        assert sum(row["run_id"] is None for row in rows["messages"]) == len(without_run)
        # What was said without a run is in the order of its instants.
        ages = [row["created_at"] for row in rows["messages"] if row["run_id"] is None]
        assert ages == sorted(ages)


async def imported(url: str, thread_id: str) -> dict[str, list[Any]]:
    """Return the rows that a thread became."""
    connection = await asyncpg.connect(url)
    query = (
        "SELECT t.* FROM imported_threads i JOIN {} t USING (session_id) "
        "WHERE i.source_id = $1 ORDER BY t.seq"
    )
    try:
        return {
            name: await connection.fetch(query.format(name), thread_id)
            for name in ("messages", "runs")
        }
    finally:
        await connection.close()


async def test_a_second_run_of_the_same_file_adds_nothing(
    database_url: str, tmp_path: Path
) -> None:
    objects = [item for n in range(3) for item in dialogue(f"thread_{n}")]
    first = await take(database_url, tmp_path, objects)
    before = await dump(database_url)
    again = await take(database_url, tmp_path, objects)
    assert (first.code, first.fates()) == (0, {"taken": 3})
    assert (again.code, again.fates()) == (0, {"unchanged": 3})
    assert again.sessions() == first.sessions()
    assert await dump(database_url) == before


async def test_what_a_source_got_since_is_told_and_not_taken_twice(
    database_url: str, tmp_path: Path
) -> None:
    first = await take(database_url, tmp_path, dialogue(turns=1))
    before = await dump(database_url)
    again = await take(database_url, tmp_path, dialogue(turns=2))
    assert (again.code, again.fates()) == (1, {"changed": 1})
    assert again.report() == [{"thread": "thread_1", "reason": "changed"}]
    assert again.sessions() == first.sessions()
    assert await dump(database_url) == before


async def test_a_session_that_was_deleted_here_stays_deleted(
    shared: Stack, tmp_path: Path
) -> None:
    client, thread_id = shared.client(), named()
    objects = dialogue(thread_id)
    done = await take(shared.database_url, tmp_path, objects, user=client.user)
    session = done.sessions()[thread_id]
    await client.call("DELETE", f"/v1/sessions/{session}", 204)

    async def is_purged() -> bool:
        query = "SELECT count(*) FROM sessions WHERE id = $1"
        return bool(await shared.fetchval(query, session) == 0)

    for purged in (False, True):
        if purged:
            await until(is_purged, within=60)
        again = await take(shared.database_url, tmp_path, objects, user=client.user)
        assert (again.code, again.fates(), again.sessions()) == (0, {"deleted": 1}, {})
        assert (await client.call("GET", "/v1/sessions", 200))["data"] == []


async def test_a_thread_is_never_shown_to_a_second_user(database_url: str, tmp_path: Path) -> None:
    await take(database_url, tmp_path, dialogue(), user="alice")
    before = await dump(database_url)
    again = await take(database_url, tmp_path, dialogue(), user="mallory")
    assert (again.code, again.fates()) == (1, {"foreign": 1})
    assert again.report() == [{"thread": "thread_1", "reason": "foreign"}]
    assert again.sessions() == {}
    after = await dump(database_url)
    assert {k: v for k, v in after.items() if k != "users"} == {
        k: v for k, v in before.items() if k != "users"
    }
    other = await take(database_url, tmp_path, dialogue(), "--tenant", "school", user="alice")
    assert (other.code, other.fates()) == (0, {"taken": 1})


async def test_owners_may_stand_in_the_threads(database_url: str, tmp_path: Path) -> None:
    objects = [
        thread("thread_a", metadata={"user_id": "alice"}),
        said(1, "a", of="thread_a"),
        thread("thread_b", metadata={"user_id": "bob"}),
        thread("thread_c", metadata={"name": WORDS}),
        said(1, "d", of="thread_d"),
    ]
    options = ("--user-from", "metadata.user_id", "--tenant", "school")
    done = await take(database_url, tmp_path, objects, *options, user=None)
    assert (done.code, done.fates()) == (1, {"taken": 2, "refused": 2})
    assert done.report() == [
        {"thread": "thread_c", "reason": "no_owner"},
        {"thread": "thread_d", "reason": "no_owner"},
    ]
    rows = (await dump(database_url))["users"]
    assert sorted((row["subject"], row["tenant"]) for row in rows) == [
        ("alice", "school"),
        ("bob", "school"),
    ]


async def test_assistants_are_mapped_and_the_newest_run_names_the_sessions(
    shared: Stack, tmp_path: Path
) -> None:
    client = shared.client(scope="assistants:write", tenant=f"school-{uuid.uuid4().hex}")
    body = {"model": "m", "name": "mapped"}
    made = [(await client.call("POST", "/v1/assistants", 201, json=body))["id"] for _ in range(2)]
    thread_id = named()
    objects = [
        run(1, of=thread_id, assistant_id="asst_gone"),
        run(2, of=thread_id, assistant_id="asst_old"),
    ]
    tenant = (await client.call("GET", "/v1/me", 200))["tenant"]
    refused = await take(
        shared.database_url,
        tmp_path,
        objects,
        *("--tenant", tenant, "--assistant", "asst_nowhere"),
        user=client.user,
    )
    assert (refused.code, refused.fates()) == (1, {"refused": 1})
    assert refused.report() == [{"thread": thread_id, "reason": "no_assistant"}]
    done = await take(
        shared.database_url,
        tmp_path,
        objects,
        *("--tenant", tenant, "--assistant", made[0], "--assistant-map", f"asst_old={made[1]}"),
        user=client.user,
    )
    assert done.code == 0, done.errors
    session = done.sessions()[thread_id]
    runs = await everything(client, session, "runs")
    assert [one["assistant_id"] for one in runs] == made
    found = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert found["assistant_id"] == made[1]


async def test_an_answer_whose_run_is_missing_names_its_assistant_too(
    shared: Stack, tmp_path: Path
) -> None:
    client, thread_id = shared.client(scope="assistants:write"), named()
    body = {"model": "m", "name": "mapped"}
    made = (await client.call("POST", "/v1/assistants", 201, json=body))["id"]
    answer = said(1, "b", of=thread_id, run_id="run_1", assistant_id="asst_old")
    (taken,), losses = await take_here(
        shared.database_url,
        tmp_path,
        said(0, "a", of=thread_id),
        answer,
        user=client.user,
        tutors=Tutors(mapped={"asst_old": made, "asst_other": "asst_nowhere"}),
    )
    assert (taken.fate, losses) == (Fate.TAKEN, [])
    (told,) = await everything(client, taken.session_id, "runs")
    assert told["assistant_id"] == made
    found = await client.call("GET", f"/v1/sessions/{taken.session_id}", 200)
    assert found["assistant_id"] == made


async def test_a_dry_run_says_the_same_and_writes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    objects = [*dialogue("thread_a"), b"{", *dialogue("thread_b")]
    before = await dump(database_url)
    dry = await take(database_url, tmp_path, objects, "--dry-run")
    told = dry.report()
    assert dry.sessions() == {}
    assert await dump(database_url) == before
    wet = await take(database_url, tmp_path, objects)
    assert (dry.code, dry.fates()) == (wet.code, wet.fates()) == (1, {"taken": 2})
    assert dry.summary | {"dry_run": False} == wet.summary
    assert told == wet.report() == [{"line": 8, "reason": "not_json"}]


async def test_two_imports_at_once_take_each_thread_once(
    database_url: str, tmp_path: Path
) -> None:
    objects = [item for n in range(40) for item in dialogue(f"thread_{n}")]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        await asyncio.to_thread(folder.mkdir)
    done = await asyncio.gather(*(take(database_url, each, objects) for each in folders))
    assert [one.code for one in done] == [0, 0]
    assert sum(one.fates().get("taken", 0) for one in done) == 40
    assert sum(one.fates().get("unchanged", 0) for one in done) == 40
    assert done[0].sessions() == done[1].sessions()
    await check(database_url)


async def test_standard_input_may_be_a_pipe_or_a_file(database_url: str, tmp_path: Path) -> None:
    process = await begun(database_url, tmp_path, [], file="-")
    out, errors = await asyncio.wait_for(process.communicate(written(dialogue())), 60)
    assert (process.returncode, errors) == (0, b"")
    assert json.loads(out)["threads"]["taken"] == 1
    file = tmp_path / "again.jsonl"
    file.write_bytes(written(dialogue()))
    with file.open("rb") as stdin:
        process = await begun(database_url, tmp_path, [], file="-", stdin=stdin)
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors) == (0, b"")
    assert json.loads(out)["threads"]["unchanged"] == 1


async def test_a_terminal_is_shown_how_far_it_is(database_url: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        process = await begun(database_url, tmp_path, dialogue(), stderr=theirs)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        drawn = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert json.loads(out)["threads"]["taken"] == 1
    assert f"\rtaking  [{'#' * 30}] 100%" in drawn
    assert drawn.endswith("\r\n")


async def test_a_thread_that_cant_be_written_stops_no_other_and_is_not_quoted(
    database_url: str, tmp_path: Path
) -> None:
    # What Postgres then says holds the whole row.
    refused = "ALTER TABLE messages ADD CHECK (content::text NOT LIKE '%poison%')"
    await execute(database_url, refused)
    objects = [*dialogue("thread_a"), *dialogue("thread_b"), *dialogue("thread_c")]
    objects[7 + 3]["content"][0]["text"]["value"] = f"poison {WORDS}"
    done = await take(database_url, tmp_path, objects)
    assert (done.code, done.fates()) == (1, {"taken": 2, "refused": 1})
    assert done.report() == [{"thread": "thread_b", "reason": "not_writable"}]
    assert "CheckViolation" in done.errors
    await check(database_url)


async def test_lost_connections_are_no_reason_to_stop(database_url: str, tmp_path: Path) -> None:
    objects = [item for n in range(150) for item in dialogue(f"thread_{n}", turns=10)]
    process = await begun(database_url, tmp_path, objects)
    connection = await asyncpg.connect(database_url)
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'tutor-relay' AND datname = current_database()"
    )
    try:
        for share in (10, 60, 110):

            async def is_under_way(share: int = share) -> bool:
                count = await connection.fetchval("SELECT count(*) FROM imported_threads")
                return bool(count >= share)

            await until(is_under_way, within=60, every=0.005)
            assert await connection.fetchval(kill) > 0
    finally:
        await connection.close()
    out, errors = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, errors.decode()
    assert json.loads(out)["threads"]["taken"] == 150
    await check(database_url)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user", "alice", "--user-from", "metadata.user_id"),
        ("--user", ""),
        ("--user", "a" * 257),
        ("--user", "alice", "--assistant-map", "asst_old"),
        ("--user", "alice", "--report", "/nowhere/at/all"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_read(
    database_url: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = await take(database_url, tmp_path, dialogue(), *options, user=None, files=False)
    assert done.code == 2
    assert done.out == ""
    assert (await dump(database_url))["sessions"] == []


async def test_a_file_that_is_not_there_and_a_schema_that_is_behind_are_refused(
    database_url: str, tmp_path: Path
) -> None:
    process = await begun(
        database_url, tmp_path, [], "--user", "alice", user=None, file="/no/file"
    )
    _, errors = await process.communicate()
    assert (process.returncode, b"No such file" in errors) == (2, True)
    await execute(database_url, "DELETE FROM alembic_version")
    done = await take(database_url, tmp_path, dialogue())
    assert done.code == 2
    assert "migrate" in done.errors


async def dump(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return all that an import may write."""
    connection = await asyncpg.connect(url)
    tables = ("users", "sessions", "runs", "messages", "events", "imported_threads")
    try:
        return {
            name: [dict(row) for row in await connection.fetch(f"TABLE {name}")] for name in tables
        }
    finally:
        await connection.close()
