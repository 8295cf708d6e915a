"""The checker finds nothing wrong in a true history, and something in every false one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from tests.conftest import NewDatabase
from tests.e2e.invariants import check, check_logs, violations
from tests.stack import running

WORDS = "solve 3x**2 + 11x - 10 = 0 for canary4711"
ANOTHER_ANSWER = """
INSERT INTO messages
SELECT 'msg_another', session_id, run_id, role, status, content, meta, seq, turn, created_at,
    completed_at
FROM messages WHERE session_id = $1 AND role = 'assistant'
"""
Change = Callable[[list[dict[str, Any]]], object]


@dataclass
class Book:
    """A database whose processes are gone, and one session of it."""

    url: str
    session: str


@pytest.fixture(scope="module")
async def book(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Book:
    """Hold true histories: answered, repeated after a cut, failed, cancelled, several turns."""
    url = await new_database()
    async with running(url, tmp_path_factory.mktemp("book"), pace=150) as stack:
        client = stack.client()
        long = await client.open_session()
        for question in (WORDS, "Please explain that in more detail."):
            run, _ = await client.ask(long, question)
            assert run["status"] == "completed", run
        cut = {
            "path": "/v1/responses",
            "action": {"type": "reset", "at": {"event": "response.output_text.delta", "nth": 9}},
        }
        await stack.admin("POST", "faults", cut)
        repeated = await client.open_session()
        run, _ = await client.ask(repeated, WORDS)
        assert run["attempts"] == 2, run
        refused = {"path": "/v1/responses", "action": {"type": "status", "status": 400}}
        await stack.admin("POST", "faults", refused)
        failed, _ = await client.ask(await client.open_session(), WORDS)
        assert failed["status"] == "failed", failed
        await stack.admin("POST", "pace", {"tokens_per_second": 5})
        stopped = await client.open_session()
        posted = await client.post(stopped, WORDS)
        await client.post(stopped, WORDS, on_active_run="enqueue")
        path = f"/v1/sessions/{stopped}/runs"
        while (await client.run(stopped, posted["run"]["id"]))["output_message_id"] is None:
            await client.run(stopped, posted["run"]["id"], wait=1, known="in_progress")
        await stack.admin("POST", "pace", {"tokens_per_second": 0})
        await client.call("POST", f"{path}/{posted['run']['id']}/cancel", 202)
        cancelled = await client.ended(stopped, posted["run"]["id"])
        assert cancelled["status"] == "cancelled", cancelled
        for listed in (await client.call("GET", path, 200))["data"]:
            await client.ended(stopped, listed["id"])
        check_logs(stack.logs(), "canary4711")
    return Book(url, repeated)


async def test_true_histories_have_no_violations(book: Book) -> None:
    await check(book.url)


async def found_after(book: Book, change: Callable[[Any], Any]) -> set[str]:
    """Spoil a copy of the data, which nobody else sees, and return the kinds that are found."""
    connection = await asyncpg.connect(book.url)
    try:
        copy = connection.transaction()
        await copy.start()
        for table in ("sessions", "runs", "messages", "events"):
            # A plain copy: the constraints that would refuse the harm are left behind.
            await connection.execute(
                f"CREATE TEMP TABLE {table} AS SELECT * FROM public.{table}"  # noqa: S608
            )
        await copy.commit()
        assert not await violations(connection)
        await change(connection)
        return {violation.kind for violation in await violations(connection)}
    finally:
        await connection.close()


async def rewritten(book: Book, connection: Any, change: Change) -> None:
    """Let a change loose on the log of the session, and number it afresh, without a gap."""
    rows = await connection.fetch(
        "SELECT * FROM events WHERE session_id = $1 ORDER BY seq", book.session
    )
    events = [{**row, "data": json.loads(row["data"])} for row in rows]
    change(events)
    await connection.execute("DELETE FROM events WHERE session_id = $1", book.session)
    for seq, event in enumerate(events, 1):
        await connection.execute(
            "INSERT INTO events (session_id, seq, type, run_id, data) VALUES ($1, $2, $3, $4, $5)",
            book.session,
            seq,
            event["type"],
            event["run_id"],
            json.dumps({**event["data"], "seq": seq}),
        )
    await connection.execute(
        "UPDATE sessions SET last_seq = $2 WHERE id = $1", book.session, len(events)
    )


def last_delta(events: list[dict[str, Any]]) -> int:
    return max(i for i, event in enumerate(events) if event["type"] == "message.delta")


def reset(events: list[dict[str, Any]]) -> int:
    return next(i for i, event in enumerate(events) if event["type"] == "message.reset")


def drop_delta(events: list[dict[str, Any]]) -> None:
    del events[last_delta(events)]


def drop_reset(events: list[dict[str, Any]]) -> None:
    del events[reset(events)]


def double_delta(events: list[dict[str, Any]]) -> None:
    events.insert(last_delta(events), dict(events[last_delta(events)]))


def change_delta(events: list[dict[str, Any]]) -> None:
    at = last_delta(events)
    events[at]["data"] = {**events[at]["data"], "text": "x" + events[at]["data"]["text"]}


def swap_deltas(events: list[dict[str, Any]]) -> None:
    at = last_delta(events)
    events[at - 1], events[at] = events[at], events[at - 1]


def add_after_end(events: list[dict[str, Any]]) -> None:
    late = events[last_delta(events)]
    data = {**late["data"], "at": events[-1]["data"]["at"]}
    events.append({**late, "data": data})


def end_twice(events: list[dict[str, Any]]) -> None:
    events.append(dict(events[-1]))


def lose_end(events: list[dict[str, Any]]) -> None:
    del events[-1]


def lose_answers_end(events: list[dict[str, Any]]) -> None:
    del events[-2]


def answer_twice(events: list[dict[str, Any]]) -> None:
    created = next(
        event
        for event in events
        if event["type"] == "message.created" and event["data"]["message"]["role"] == "assistant"
    )
    message = {**created["data"]["message"], "id": "msg_another"}
    at = events.index(created) + 1
    events.insert(at, {**created, "data": {**created["data"], "message": message}})


def foreign_event(events: list[dict[str, Any]]) -> None:
    events[3] = {**events[3], "data": {**events[3]["data"], "session_id": "sess_another"}}


def change_usage(events: list[dict[str, Any]]) -> None:
    run = {**events[-1]["data"]["run"], "usage": None}
    events[-1]["data"] = {**events[-1]["data"], "run": run}


def begin_late(events: list[dict[str, Any]]) -> None:
    del events[1]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (drop_delta, "deltas"),
        (drop_reset, "deltas"),
        (double_delta, "deltas"),
        (change_delta, "deltas"),
        (swap_deltas, "deltas"),
        (add_after_end, "end"),
        (end_twice, "end"),
        (lose_end, "end"),
        (lose_answers_end, "message"),
        (answer_twice, "answers"),
        (foreign_event, "log"),
        (change_usage, "run"),
        (begin_late, "run"),
    ],
)
async def test_a_false_log_is_found_out(book: Book, change: Change, kind: str) -> None:
    async def spoil(connection: Any) -> None:
        await rewritten(book, connection, change)

    assert kind in await found_after(book, spoil)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DELETE FROM events WHERE session_id = $1 AND seq = 5", "log"),
        ("DELETE FROM events WHERE session_id = $1 AND seq = 1", "log"),
        ("DELETE FROM events WHERE session_id = $1 AND type LIKE 'run.completed'", "log"),
        ("UPDATE sessions SET last_seq = last_seq + 1 WHERE id = $1", "log"),
        ("UPDATE sessions SET active_run_id = 'run_another' WHERE id = $1", "session"),
        ("UPDATE runs SET attempts = attempts + 1 WHERE session_id = $1", "run"),
        ("UPDATE runs SET status = 'in_progress' WHERE session_id = $1", "end"),
        ("DELETE FROM runs WHERE session_id = $1", "run"),
        ("DELETE FROM messages WHERE session_id = $1 AND role = 'assistant'", "answers"),
        ("UPDATE runs SET output_message_id = NULL WHERE session_id = $1", "answers"),
        ("UPDATE messages SET content = '[]' WHERE session_id = $1", "message"),
        ("UPDATE messages SET status = 'incomplete' WHERE session_id = $1", "message"),
        (ANOTHER_ANSWER, "answers"),
    ],
)
async def test_a_false_row_is_found_out(book: Book, statement: str, kind: str) -> None:
    async def spoil(connection: Any) -> None:
        await connection.execute(statement, book.session)

    assert kind in await found_after(book, spoil)


def test_a_traceback_a_key_and_words_in_a_log_are_found_out() -> None:
    for line in (
        "Traceback (most recent call last):",
        '{"message": "401 for sk-canary-in-no-log"}',
        '{"message": "\\ub2e4\\uc74c\\uc758"}',
    ):
        with pytest.raises(AssertionError):
            check_logs(line, "다음의")
    check_logs('{"message": "all is well"}', "다음의")
