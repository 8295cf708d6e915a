"""A creating request that is sent again is done once, and answered alike."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.stack import Client, Stack, blocks_of, until


@pytest.fixture
async def client(shared: Stack) -> Client:
    return shared.client(scope="assistants:write")


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


async def send(client: Client, path: str, body: Any, headers: dict[str, str]) -> Any:
    return await client.http.post(path, json=body, headers=headers)


@pytest.fixture
async def session(client: Client) -> str:
    return await client.open_session()


async def bodies(session: str) -> list[tuple[str, Any]]:
    return [
        ("/v1/sessions", {"title": "once"}),
        ("/v1/assistants", {"model": "m", "name": "once"}),
        (f"/v1/sessions/{session}/messages", {"content": "1+1", "on_active_run": "enqueue"}),
        (f"/v1/sessions/{session}/messages", {"content": "noted", "run": False}),
        (f"/v1/sessions/{session}/runs", {"on_active_run": "enqueue"}),
    ]


async def test_every_creating_post_is_done_once_and_answered_alike(
    client: Client, shared: Stack, session: str
) -> None:
    other = shared.client(at=1, user=client.user, scope="assistants:write")
    for path, body in await bodies(session):
        headers = keyed()
        first = await send(client, path, body, headers)
        assert first.status_code in {201, 202}, first.text
        again = await send(other, path, body, headers)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["Location"] == first.headers["Location"]
        fresh = await send(client, path, body, keyed())
        assert fresh.content != first.content


async def test_the_same_key_with_another_body_is_refused(client: Client, session: str) -> None:
    for path, body in await bodies(session):
        headers = keyed()
        assert (await send(client, path, body, headers)).status_code in {201, 202}
        refused = await send(client, path, {**body, "metadata": {"a": "b"}}, headers)
        assert refused.status_code == 422
        assert refused.json()["code"] == "idempotency_key_reused"


async def test_a_key_is_its_users_and_its_routes(client: Client, shared: Stack) -> None:
    headers = keyed()
    first = await send(client, "/v1/sessions", {}, headers)
    stranger = await send(shared.client(), "/v1/sessions", {}, headers)
    assert stranger.json()["id"] != first.json()["id"]
    elsewhere = await send(client, "/v1/assistants", {"model": "m"}, headers)
    assert elsewhere.status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "\xe9"])
async def test_a_malformed_key_is_refused_and_not_echoed(client: Client, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    refused = await client.http.post("/v1/sessions", json={}, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["code"] == "invalid_idempotency_key"
    assert (await client.call("GET", "/v1/sessions", 200))["data"] == []


async def test_a_refused_request_may_be_tried_again_with_its_key(
    client: Client, session: str
) -> None:
    path, headers = f"/v1/sessions/{session}/runs", keyed()
    assert (await send(client, path, {}, headers)).status_code == 409
    await client.ask(session, "2+2")
    assert (await send(client, path, {}, headers)).status_code == 202


async def test_fifty_at_once_with_one_key_make_one_run(
    client: Client, shared: Stack, session: str
) -> None:
    other = shared.client(at=1, user=client.user)
    path, headers, body = f"/v1/sessions/{session}/messages", keyed(), {"content": "3+3"}
    answers = await asyncio.gather(
        *(send((client, other)[n % 2], path, body, headers) for n in range(50))
    )
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) <= {202, 409}, counts
    assert all(a.json()["code"] == "request_in_flight" for a in answers if a.status_code == 409)
    assert len({a.content for a in answers if a.status_code == 202}) == 1
    runs = await client.call("GET", f"/v1/sessions/{session}/runs", 200)
    assert len(runs["data"]) == 1
    messages = await client.call("GET", f"/v1/sessions/{session}/messages?limit=100", 200)
    assert sum(m["role"] == "user" for m in messages["data"]) == 1


async def test_a_repeated_stream_is_that_runs_stream_from_its_start(
    client: Client, session: str
) -> None:
    path = f"/v1/sessions/{session}/messages"
    headers = keyed() | {"Accept": "text/event-stream"}
    body = {"content": "Solve x^2 = 4"}
    first = await client.stream(path, method="POST", json=body, headers=headers)
    again = await client.stream(path, method="POST", json=body, headers=headers)
    assert [b.raw for b in blocks_of(again)] == [b.raw for b in blocks_of(first)]
    assert blocks_of(first)[-1].event == "done"


async def test_a_repetition_needs_no_room(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    path, headers = f"/v1/sessions/{session}/messages", keyed()
    body = {"content": "4+4", "on_active_run": "reject"}
    first = await send(client, path, body, headers)
    assert first.status_code == 202
    await client.ended(session, first.json()["run"]["id"])
    await client.call("PATCH", f"/v1/sessions/{session}", 200, json={"status": "ended"})
    again = await send(client, path, body, headers)
    assert (again.status_code, again.content) == (202, first.content)


async def test_the_answer_goes_with_the_session(client: Client, shared: Stack) -> None:
    session = await client.open_session()
    path, headers = f"/v1/sessions/{session}/messages", keyed()
    await send(client, path, {"content": "the words of a student", "run": False}, headers)
    count = "SELECT count(*) FROM answers WHERE session_id = $1"
    assert await shared.fetchval(count, session) == 1
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    assert await shared.fetchval(count, session) == 0
    gone = await send(client, path, {"content": "the words of a student", "run": False}, headers)
    assert gone.status_code == 404


async def test_a_key_is_forgotten_after_a_day(client: Client, shared: Stack) -> None:
    headers = keyed()
    first = await send(client, "/v1/sessions", {}, headers)
    await shared.fetch(
        "UPDATE answers SET created_at = now() - interval '25 hours' WHERE session_id = $1",
        first.json()["id"],
    )
    second = await send(client, "/v1/sessions", {}, headers)
    assert second.json()["id"] != first.json()["id"]
    assert (await send(client, "/v1/sessions", {}, headers)).content == second.content


@pytest.fixture
async def slow_session(shared: Stack) -> AsyncIterator[tuple[Client, str]]:
    """A session whose answers stall at their first word until the rule is lifted."""
    client = shared.client()
    session = await client.open_session()
    yield client, session
    await shared.admin("DELETE", "faults")


async def stalled(shared: Stack, client: Client, session: str) -> str:
    """Ask what will not be answered; return the run once it is in progress."""
    text = f"hold {uuid.uuid4().hex}"
    await shared.admin(
        "POST",
        "faults",
        {
            "path": "/v1/responses",
            "text": text,
            "times": 1,
            "action": {"type": "stall", "at": {"event": "response.output_text.delta", "nth": 3}},
        },
    )
    run: str = (await client.post(session, text))["run"]["id"]

    async def is_shown() -> bool:
        found = await client.run(session, run)
        return bool(found["status"] == "in_progress" and found["output_message_id"])

    await until(is_shown)
    return run


async def test_interrupt_cancels_the_active_run_then_runs(
    shared: Stack, slow_session: tuple[Client, str]
) -> None:
    client, session = slow_session
    held = await stalled(shared, client, session)
    waiting = (await client.post(session, "5+5", on_active_run="enqueue"))["run"]["id"]
    posted = await client.post(session, "Solve x^2 = 9", on_active_run="interrupt")
    found = await client.ended(session, held)
    assert found["status"] == "cancelled"
    for run in (waiting, posted["run"]["id"]):
        assert (await client.ended(session, run))["status"] == "completed"
    stream = await client.http.get(f"/v1/sessions/{session}/runs/{held}/events")
    events = [block.event for block in blocks_of(stream.text)]
    assert events[-4:] == ["run.cancelling", "message.incomplete", "run.cancelled", "done"]
    runs = (await client.call("GET", f"/v1/sessions/{session}/runs?order=asc", 200))["data"]
    assert [run["id"] for run in runs] == [held, waiting, posted["run"]["id"]]
    starts = [run["started_at"] for run in runs]
    assert starts == sorted(starts)


async def test_interrupt_without_an_active_run_just_runs(client: Client, session: str) -> None:
    posted = await client.post(session, "6+6", on_active_run="interrupt")
    assert (await client.ended(session, posted["run"]["id"]))["status"] == "completed"


async def test_interrupts_at_once_keep_their_order(
    shared: Stack, slow_session: tuple[Client, str]
) -> None:
    client, session = slow_session
    held = await stalled(shared, client, session)
    posted = await asyncio.gather(
        *(client.post(session, f"{n}+{n}", on_active_run="interrupt") for n in range(5))
    )
    assert (await client.ended(session, held))["status"] == "cancelled"
    ended = [await client.ended(session, one["run"]["id"]) for one in posted]
    by_place = sorted(ended, key=lambda run: run["seq"])
    assert [run["status"] for run in by_place][-1] == "completed"
    starts = [run["started_at"] for run in by_place if run["started_at"]]
    assert starts == sorted(starts)
