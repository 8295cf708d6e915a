"""Runs: polled, waited for, answered again, put in order and cancelled."""

import asyncio
import itertools
import json
import time
import uuid
from typing import Any

import pytest

from tests.integration.test_messages import RUN_KEYS, text_of
from tests.stack import Client, Stack, blocks_of, until


@pytest.fixture(scope="module")
async def slow(shared: Stack) -> str:
    """A word that makes the sandbox answer slowly whoever says it."""
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await shared.admin("POST", "pace", {"tokens_per_second": 5, "text": word})
    return word


async def begun(client: Client, session: str, content: str, **fields: Any) -> str:
    """Post, and wait until the tutor is at work and has said something."""
    run = str((await client.post(session, content, **fields))["run"]["id"])

    async def has_words() -> bool:
        told = await client.call("GET", f"/v1/sessions/{session}/messages?limit=1", 200)
        newest = told["data"][0]
        return bool(newest["run_id"] == run and text_of(newest))

    await until(has_words)
    return run


async def cancel(client: Client, session: str, run: str, expect: int = 202) -> Any:
    return await client.call("POST", f"/v1/sessions/{session}/runs/{run}/cancel", expect)


async def test_a_run_tells_its_whole_life(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, _ = await client.ask(session, "Solve 2x = 6")
    assert set(run) == RUN_KEYS
    assert (run["object"], run["status"], run["attempts"]) == ("run", "completed", 1)
    assert run["created_at"] <= run["started_at"] <= run["ended_at"]
    assert set(run["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}
    assert run["usage"]["total_tokens"] > 0
    assert (run["last_error"], run["incomplete_details"], run["required_action"]) == (None,) * 3
    assert await client.run(session, run["id"]) == run
    listed = await client.call("GET", f"/v1/sessions/{session}/runs", 200)
    assert listed["data"] == [run]
    assert set(listed) == {"object", "data", "first_id", "last_id", "has_more"}


async def test_a_run_expires_600_seconds_after_it_was_claimed(shared: Stack, slow: str) -> None:
    client = shared.client()
    session = await client.open_session()
    run_id = await begun(client, session, f"Explain 2x = 6 {slow}")
    lifetime = await shared.fetchval(
        "SELECT extract(epoch FROM expires_at - started_at) FROM runs WHERE id = $1", run_id
    )
    assert lifetime == 600
    run = await client.run(session, run_id)
    assert run["expires_at"] > run["started_at"]
    await cancel(client, session, run_id)


async def test_a_question_is_answered_again_from_the_transcript(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    first, words = await client.ask(session, "Solve 2x = 38")
    path = f"/v1/sessions/{session}/runs"
    response = await client.http.post(path, json={"metadata": {"again": "yes"}})
    assert response.status_code == 202
    again = response.json()
    assert set(again) == RUN_KEYS
    assert response.headers["location"] == f"{path}/{again['id']}"
    assert (again["status"], again["metadata"]) == ("queued", {"again": "yes"})
    assert again["input_message_id"] == first["input_message_id"]
    run = await client.ended(session, again["id"])
    assert run["output_message_id"] != first["output_message_id"]
    told = await client.call("GET", f"/v1/sessions/{session}/messages?order=asc", 200)
    assert [m["role"] for m in told["data"]] == ["user", "assistant", "assistant"]
    assert "19" in words
    assert "19" in text_of(told["data"][2])


async def test_where_nothing_was_said_there_is_nothing_to_answer(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    refused = await client.call("POST", f"/v1/sessions/{session}/runs", 409, json={})
    assert refused["code"] == "nothing_to_answer"


async def test_a_busy_session_refuses_and_names_the_run_in_the_way(
    shared: Stack, slow: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    run = await begun(client, session, f"Explain 2x = 6 {slow}")
    path = f"/v1/sessions/{session}"
    before = await client.call("GET", f"{path}/messages", 200)
    bodies: list[tuple[str, Any]] = [
        ("messages", {"content": "And now?"}),
        ("messages", {"content": "And now?", "on_active_run": "reject"}),
        ("runs", {}),
        ("runs", {"on_active_run": "reject"}),
    ]
    for noun, body in bodies:
        refused = await client.call("POST", f"{path}/{noun}", 409, json=body)
        assert (refused["code"], refused["active_run_id"]) == ("session_busy", run)
    streamed = await client.http.post(
        f"{path}/messages", json={"content": "x"}, headers={"Accept": "text/event-stream"}
    )
    assert streamed.status_code == 409
    after = await client.call("GET", f"{path}/messages", 200)
    assert [m["id"] for m in after["data"]] == [m["id"] for m in before["data"]]
    await cancel(client, session, run)


async def test_queued_runs_wait_their_turn_in_order(shared: Stack, slow: str) -> None:
    client = shared.client()
    session = await client.open_session()
    asked = [("2x = 22", "11"), ("2x = 26", "13"), ("2x = 34", "17")]
    first = await begun(client, session, f"Solve {asked[0][0]} {slow}")
    ids = [first]
    for equation, _ in asked[1:]:
        posted = await client.post(session, f"Solve {equation}", on_active_run="enqueue")
        assert posted["run"]["status"] == "queued"
        ids.append(posted["run"]["id"])
    runs = [await client.ended(session, run, within=40) for run in ids]
    assert [run["status"] for run in runs] == ["completed"] * 3
    for earlier, later in itertools.pairwise(runs):
        assert earlier["ended_at"] <= later["started_at"]
    for run, (_, solution) in zip(runs, asked, strict=True):
        path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
        assert solution in text_of(await client.call("GET", path, 200))


async def test_a_queued_run_is_cancelled_at_once(shared: Stack, slow: str) -> None:
    client = shared.client()
    session = await client.open_session()
    active = await begun(client, session, f"Explain 2x = 6 {slow}")
    posted = await client.post(session, "Solve 2x = 8", on_active_run="enqueue")
    waiting = posted["run"]["id"]
    cancelled = await cancel(client, session, waiting)
    assert set(cancelled) == RUN_KEYS
    assert (cancelled["status"], cancelled["attempts"]) == ("cancelled", 0)
    assert cancelled["ended_at"] is not None
    assert cancelled["started_at"] is None
    assert await client.run(session, waiting) == cancelled
    assert (await client.run(session, active))["status"] == "in_progress"
    blocks = blocks_of(await client.stream(f"/v1/sessions/{session}/runs/{waiting}/events"))
    events = [block.event for block in blocks]
    assert events == ["message.created", "run.queued", "run.cancelled", "done"]
    await cancel(client, session, active)


async def test_a_run_at_work_is_cancelled_and_what_it_said_is_kept(
    shared: Stack, slow: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    run_id = await begun(client, session, f"Explain 3x**2 + 11x - 10 = 0 {slow}")
    told = await cancel(client, session, run_id)
    assert set(told) == RUN_KEYS
    assert told["status"] == "cancelling"
    run = await client.ended(session, run_id)
    assert run["status"] == "cancelled"
    blocks = blocks_of(await client.stream(f"/v1/sessions/{session}/runs/{run_id}/events"))
    events = [block.event for block in blocks]
    assert events[-3:] == ["message.incomplete", "run.cancelled", "done"]
    assert "run.cancelling" in events
    deltas = [json.loads(b.data)["text"] for b in blocks if b.event == "message.delta"]
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    message = await client.call("GET", path, 200)
    assert message["status"] == "incomplete"
    assert text_of(message) == "".join(deltas) != ""
    assert json.loads(blocks[-3].data)["message"] == message
    assert json.loads(blocks[-2].data)["run"] == run
    opened = await client.call("GET", f"/v1/sessions/{session}", 200)
    assert opened["active_run_id"] is None
    later, answer = await client.ask(session, "Solve 2x = 46")
    assert later["status"] == "completed"
    assert "23" in answer


async def test_a_run_that_ended_cannot_be_cancelled(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, _ = await client.ask(session, "Solve 2x = 6")
    for _ in range(2):
        assert (await cancel(client, session, run["id"], 409))["code"] == "run_ended"
    assert await client.run(session, run["id"]) == run


async def test_a_body_of_a_cancellation_says_nothing_or_is_refused(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    await client.post(session, "What is 1 + 1?")
    for path in ("runs/run_none/cancel", "stream_tickets"):
        address = f"/v1/sessions/{session}/{path}"
        problem = await client.call("POST", address, 422, json={"later": True})
        assert problem["code"] == "invalid_request"
        json_type = {"Content-Type": "application/json"}
        problem = await client.call("POST", address, 400, content=b"{no", headers=json_type)
        assert problem["code"] == "invalid_json"
    await client.call("POST", f"/v1/sessions/{session}/stream_tickets", 201, json={})


async def test_cancelling_twice_is_one_cancellation(shared: Stack, slow: str) -> None:
    here = shared.client()
    there = shared.client(at=1, user=here.user)
    session = await here.open_session()
    run = await begun(here, session, f"Explain 2x = 6 {slow}")
    path = f"/v1/sessions/{session}/runs/{run}/cancel"
    answers = await asyncio.gather(*[(here, there)[n % 2].http.post(path) for n in range(6)])
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert 202 in {answer.status_code for answer in answers}
    await here.ended(session, run)
    told = await shared.fetchval(
        "SELECT count(*) FROM events WHERE session_id = $1 AND type = 'run.cancelling'", session
    )
    assert told == 1


async def test_a_wait_answers_at_once_when_there_is_news(shared: Stack, slow: str) -> None:
    client = shared.client()
    session = await client.open_session()
    run = await begun(client, session, f"Explain 2x = 6 {slow}")
    began = time.monotonic()
    found = await client.run(session, run, wait=30, known="queued")
    assert found["status"] == "in_progress"
    await cancel(client, session, run)
    ended = await client.ended(session, run)
    for known in ({}, {"known": "cancelled"}, {"known": "in_progress"}):
        assert await client.run(session, run, wait=30, **known) == ended
    assert time.monotonic() - began < 15


async def test_a_wait_lasts_until_the_status_changes_or_the_time_is_up(
    shared: Stack, slow: str
) -> None:
    client = shared.client()
    there = shared.client(at=1, user=client.user)
    session = await client.open_session()
    run = await begun(client, session, f"Explain 2x = 6 {slow}")
    began = time.monotonic()
    found = await client.run(session, run, wait=0.5, known="in_progress")
    assert found["status"] == "in_progress"
    assert time.monotonic() - began >= 0.5
    began = time.monotonic()
    waiting = asyncio.create_task(there.run(session, run, wait=30, known="in_progress"))
    await cancel(client, session, run)
    assert (await waiting)["status"] in {"cancelling", "cancelled"}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ({"type": "status", "status": 400, "message": "no"}, "failed"),
        ({"type": "incomplete", "after_deltas": 2}, "incomplete"),
    ],
    ids=["refused", "filtered"],
)
async def test_a_run_that_ends_badly_says_why(
    shared: Stack, action: dict[str, Any], status: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    word = f"bad{uuid.uuid4().hex[:8]}"
    rule = {"path": "/v1/responses", "text": word, "times": None, "action": action}
    await shared.admin("POST", "faults", rule)
    run, _ = await client.ask(session, f"Solve 2x = 6 {word}")
    assert run["status"] == status
    if status == "failed":
        assert set(run["last_error"]) == {"code", "message"}
        assert run["last_error"]["message"]
        assert "no" not in run["last_error"]["message"].split()
    else:
        assert run["incomplete_details"] == {"reason": "content_filter"}
        assert run["output_message_id"] is not None


async def test_a_run_is_found_in_its_own_session_only(shared: Stack) -> None:
    client = shared.client()
    session, other = await client.open_session(), await client.open_session()
    run, _ = await client.ask(session, "Solve 2x = 6")
    path = f"/v1/sessions/{other}/runs/{run['id']}"
    await client.call("GET", path, 404)
    await client.call("GET", f"{path}/events", 404)
    await client.call("POST", f"{path}/cancel", 404)


async def test_of_posts_that_come_at_once_one_is_taken(shared: Stack, slow: str) -> None:
    here = shared.client()
    there = shared.client(at=1, user=here.user)
    session = await here.open_session()
    path = f"/v1/sessions/{session}/messages"
    posts = [
        (here, there)[n % 2].http.post(path, json={"content": f"Explain 2x = 6 {slow}"})
        for n in range(8)
    ]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    (taken,) = [answer.json() for answer in answers if answer.status_code == 202]
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["active_run_id"] == taken["run"]["id"]
    told = await here.call("GET", path, 200)
    assert len([m for m in told["data"] if m["role"] == "user"]) == 1
    await cancel(here, session, taken["run"]["id"])
