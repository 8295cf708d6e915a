"""Messages: said, stored, answered, and told again exactly as they were."""

import asyncio
import json
import uuid
from typing import Any

import httpx2
import pytest

from tests.stack import Client, Stack, blocks_of, until

MESSAGE_KEYS = {
    "id",
    "object",
    "session_id",
    "run_id",
    "role",
    "status",
    "content",
    "metadata",
    "seq",
    "created_at",
    "completed_at",
}
RUN_KEYS = {
    "id",
    "object",
    "session_id",
    "assistant_id",
    "model",
    "status",
    "attempts",
    "input_message_id",
    "output_message_id",
    "required_action",
    "last_error",
    "incomplete_details",
    "usage",
    "metadata",
    "seq",
    "created_at",
    "started_at",
    "expires_at",
    "ended_at",
}
LIST_KEYS = {"object", "data", "first_id", "last_id", "has_more", "last_seq"}


@pytest.fixture(scope="module")
async def slow(shared: Stack) -> str:
    """A word that makes the sandbox answer slowly whoever says it."""
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await shared.admin("POST", "pace", {"tokens_per_second": 8, "text": word})
    return word


def text_of(message: Any) -> str:
    return "".join(part["text"] for part in message["content"])


async def transcript(client: Client, session: str, **params: Any) -> Any:
    path = f"/v1/sessions/{session}/messages"
    return await client.call("GET", path, 200, params={"order": "asc"} | params)


async def said_upstream(stack: Stack, session: str) -> list[tuple[str, str]]:
    """What the upstream's conversation holds, as roles and texts."""
    query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
    thread = await stack.fetchval(query, session)
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/conversations/{thread}/items"
    headers = {"Authorization": "Bearer any"}
    async with httpx2.AsyncClient(headers=headers) as http:
        items = (await http.get(url, params={"order": "asc", "limit": 100})).json()["data"]
    return [(item["role"], text_of(item)) for item in items if item["type"] == "message"]


async def test_a_message_and_its_run_are_stored_before_they_are_confirmed(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    body = {"content": "Solve 2x = 6", "metadata": {"k": "v"}}
    response = await client.http.post(f"{path}/messages", json=body)
    assert response.status_code == 202
    posted = response.json()
    assert set(posted) == {"message", "run"}
    message, run = posted["message"], posted["run"]
    assert response.headers["location"] == f"{path}/runs/{run['id']}"
    assert set(message) == MESSAGE_KEYS
    assert set(run) == RUN_KEYS
    assert message == {
        "id": message["id"],
        "object": "message",
        "session_id": session,
        "run_id": None,
        "role": "user",
        "status": "completed",
        "content": [{"type": "text", "text": "Solve 2x = 6", "annotations": []}],
        "metadata": {"k": "v"},
        "seq": 1,
        "created_at": message["created_at"],
        "completed_at": message["created_at"],
    }
    assert run == {
        "id": run["id"],
        "object": "run",
        "session_id": session,
        "assistant_id": "asst_default",
        "model": "test-model",
        "status": "queued",
        "attempts": 0,
        "input_message_id": message["id"],
        "metadata": {},
        "seq": 2,
        "created_at": run["created_at"],
    } | dict.fromkeys(
        (
            "output_message_id",
            "required_action",
            "last_error",
            "incomplete_details",
            "usage",
            "started_at",
            "expires_at",
            "ended_at",
        )
    )
    assert message["id"].startswith("msg_")
    assert run["id"].startswith("run_")
    there = shared.client(at=1, user=client.user)
    assert await there.call("GET", f"{path}/messages/{message['id']}", 200) == message
    await there.ended(session, run["id"])


async def test_the_answer_is_a_message_of_its_run(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, text = await client.ask(session, "Solve 3x**2 + 11x - 10 = 0")
    assert "(-11 + √241)/6" in text
    assert "(-11 - √241)/6" in text
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    answer = await client.call("GET", path, 200)
    assert set(answer) == MESSAGE_KEYS
    assert answer["run_id"] == run["id"]
    assert (answer["role"], answer["status"]) == ("assistant", "completed")
    assert all(set(part) == {"type", "text", "annotations"} for part in answer["content"])
    assert answer["completed_at"] > answer["created_at"]


ODD = "\u2028a\x85\u00a0b\r\nc\x1b[31m\td\\n \N{GRINNING FACE} 가 \u202e e\ufeff"


async def test_words_come_back_exactly_as_they_were_said(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    parts = [{"type": "text", "text": text} for text in (ODD, " ", "event: x\n\ndata: y\n\n", "")]
    for content in (ODD, parts):
        posted = await client.call(
            "POST",
            f"/v1/sessions/{session}/messages",
            202,
            json={"content": content, "run": False},
        )
        expected = [ODD] if isinstance(content, str) else [part["text"] for part in parts]
        path = f"/v1/sessions/{session}/messages/{posted['message']['id']}"
        for found in (posted["message"], await client.call("GET", path, 200)):
            assert [part["text"] for part in found["content"]] == expected


async def test_a_message_may_only_be_stored(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    for headers in ({}, {"Accept": "text/event-stream"}):
        response = await client.http.post(
            f"{path}/messages", json={"content": "For later.", "run": False}, headers=headers
        )
        assert response.status_code == 202
        posted = response.json()
        assert posted["run"] is None
        assert set(posted["message"]) == MESSAGE_KEYS
        assert response.headers["location"] == f"{path}/messages/{posted['message']['id']}"
    assert (await client.call("GET", f"{path}/runs", 200))["data"] == []
    assert len((await transcript(client, session))["data"]) == 2


async def test_what_was_only_stored_is_answered_with_the_next_question(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    await client.post(session, "My equation is 5x = 35.", run=False)
    _, answer = await client.ask(session, "Please explain step by step how to solve it.")
    assert "5x = 35" in answer
    assert "x = 7" in answer
    assert await said_upstream(shared, session) == [
        ("user", "My equation is 5x = 35."),
        ("user", "Please explain step by step how to solve it."),
        ("assistant", answer),
    ]


async def test_a_message_is_stored_while_a_run_is_active_and_seen_by_the_next(
    shared: Stack, slow: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    asked = f"Solve 2x = 22 {slow}"
    first = (await client.post(session, asked))["run"]["id"]

    async def has_begun() -> bool:
        return len((await transcript(client, session))["data"]) == 2

    await until(has_begun)
    stored = await client.post(session, "Solve 5x = 85", run=False)
    assert stored["run"] is None
    assert (await client.run(session, first))["status"] == "in_progress"
    assert (await client.ended(session, first))["status"] == "completed"
    path = f"/v1/sessions/{session}/runs"
    again = await client.call("POST", path, 202, json={})
    assert again["input_message_id"] == stored["message"]["id"]
    assert (await client.ended(session, again["id"]))["status"] == "completed"
    told = [(m["role"], text_of(m)) for m in (await transcript(client, session))["data"]]
    assert [role for role, _ in told] == ["user", "assistant", "user", "assistant"]
    assert told[0][1] == asked
    assert "x = 17" in told[3][1]
    assert await said_upstream(shared, session) == told


async def test_a_message_can_be_answered_by_its_stream(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    async with client.http.stream(
        "POST",
        f"/v1/sessions/{session}/messages",
        json={"content": "Solve 3x = 12"},
        headers={"Accept": "text/event-stream"},
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        location = response.headers["location"]
        text = (await response.aread()).decode()
    blocks = blocks_of(text)
    events = [block.event for block in blocks]
    assert events[:3] == ["message.created", "run.queued", "run.in_progress"]
    assert events[-2:] == ["run.completed", "done"]
    run = await client.call("GET", location, 200)
    assert json.loads(blocks[-2].data)["run"] == run
    deltas = [json.loads(b.data) for b in blocks if b.event == "message.delta"]
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    answer = await client.call("GET", path, 200)
    assert "".join(delta["text"] for delta in deltas) == text_of(answer)
    assert blocks_of(await client.stream(location + "/events")) == blocks


async def test_the_transcript_tells_up_to_its_last_seq_and_the_events_go_on(
    shared: Stack, slow: str
) -> None:
    """Load, then follow after `last_seq`: nothing is missed, nothing comes twice."""
    client = shared.client()
    session = await client.open_session()
    posted = await client.post(session, f"Solve 2x = 22 {slow}")
    run = posted["run"]["id"]

    async def half_told() -> Any:
        found = await transcript(client, session)
        last = found["data"][-1]
        has_text = last["status"] == "in_progress" and text_of(last)
        return found if has_text else None

    told = await until(half_told)
    assert set(told) == LIST_KEYS
    half = told["data"][-1]
    assert set(half) == MESSAGE_KEYS
    assert (half["run_id"], half["role"], half["completed_at"]) == (run, "assistant", None)
    alone = await client.call("GET", f"/v1/sessions/{session}/messages/{half['id']}", 200)
    assert text_of(alone).startswith(text_of(half))
    rest = await client.stream(
        f"/v1/sessions/{session}/runs/{run}/events", params={"after": told["last_seq"]}
    )
    blocks = blocks_of(rest)
    assert int(blocks[0].id or 0) == told["last_seq"] + 1
    more = [json.loads(b.data)["text"] for b in blocks if b.event == "message.delta"]
    whole = await client.call("GET", f"/v1/sessions/{session}/messages/{half['id']}", 200)
    assert text_of(half) + "".join(more) == text_of(whole)


async def test_the_last_seq_is_the_session_s(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    empty = await transcript(client, session)
    assert empty == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
        "last_seq": 0,
    }
    await client.ask(session, "Solve 2x = 6")
    opened = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert (await transcript(client, session))["last_seq"] == opened["last_seq"]


async def test_the_transcript_of_one_run_is_its_answer(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    runs = [(await client.ask(session, f"Solve 2x = {n}"))[0] for n in (6, 8)]
    for run in runs:
        found = await transcript(client, session, run_id=run["id"])
        assert [message["id"] for message in found["data"]] == [run["output_message_id"]]
    assert (await transcript(client, session, run_id="run_none"))["data"] == []


async def test_a_message_is_found_in_its_own_session_only(shared: Stack) -> None:
    client = shared.client()
    session, other = await client.open_session(), await client.open_session()
    message = (await client.post(session, "Hello.", run=False))["message"]["id"]
    await client.call("GET", f"/v1/sessions/{session}/messages/{message}", 200)
    await client.call("GET", f"/v1/sessions/{other}/messages/{message}", 404)


async def test_messages_that_come_at_once_are_each_stored_once_in_one_order(
    shared: Stack,
) -> None:
    here = shared.client()
    there = shared.client(at=1, user=here.user)
    session = await here.open_session()
    posts = [(here, there)[n % 2].post(session, f"Note {n}", run=False) for n in range(20)]
    posted = await asyncio.gather(*posts)
    told = await transcript(here, session, limit=100)
    assert [message["seq"] for message in told["data"]] == list(range(1, 21))
    expected = {found["message"]["id"]: text_of(found["message"]) for found in posted}
    assert {message["id"]: text_of(message) for message in told["data"]} == expected
