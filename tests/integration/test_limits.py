"""Limits: what is too much is refused, says when to come back, and leaves nothing behind."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from tests.stack import Client, Stack, until

LIMITS = {
    "MAX_QUEUED_RUNS_PER_SESSION": "2",
    "MAX_QUEUED_RUNS_PER_USER": "3",
    "MAX_STREAMS_PER_USER": "2",
    "MAX_MESSAGE_CHARS": "100",
    "MAX_BODY_BYTES": "4096",
}
FILES = {"file_bytes": 32 << 20, "files": 200, "files_bytes": 1 << 30}


@pytest.fixture(scope="module")
async def at(shared: Stack) -> AsyncIterator[int]:
    """An API process with low limits, beside the others."""
    process = await shared.start_api(**LIMITS)
    yield len(shared.api_urls) - 1
    process.kill()
    shared.api_urls.pop()


@pytest.fixture(scope="module")
async def slow(shared: Stack) -> str:
    """A word that makes the sandbox answer slowly whoever says it."""
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await shared.admin("POST", "pace", {"tokens_per_second": 1, "text": word})
    return word


@pytest.fixture
def client(shared: Stack, at: int) -> Client:
    return shared.client(at=at)


async def occupied(client: Client, slow: str) -> tuple[str, str]:
    """A session whose tutor is at work for long, and the run."""
    session = await client.open_session()
    run = (await client.post(session, f"Explain 3x**2 + 11x - 10 = 0 {slow}"))["run"]["id"]

    async def is_active() -> bool:
        return bool((await client.run(session, run))["status"] == "in_progress")

    await until(is_active)
    return session, run


async def remaining(client: Client) -> Any:
    return (await client.call("GET", "/v1/me", 200))["remaining"]


def assert_come_back(response: httpx2.Response, code: str) -> None:
    assert response.status_code == 429, response.text
    assert response.json()["code"] == code
    assert int(response.headers["retry-after"]) >= 1


async def test_i_am_told_who_i_am_and_what_i_may(shared: Stack, at: int) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    client = shared.client(at=at, tenant=tenant, scope="b a  assistants:write")
    found = await client.call("GET", "/v1/me", 200)
    assert found.pop("id").startswith("user_")
    assert found == {
        "object": "user",
        "subject": client.user,
        "tenant": tenant,
        "scopes": ["a", "assistants:write", "b"],
        "limits": {
            "message_chars": 100,
            "queued_runs_per_session": 2,
            "queued_runs": 3,
            "streams": 2,
            "tool_output_chars": 200_000,
            **FILES,
        },
        "remaining": {
            "queued_runs": 3,
            "streams": 2,
            "files": FILES["files"],
            "files_bytes": FILES["files_bytes"],
        },
    }


async def test_the_same_user_has_one_id_everywhere(shared: Stack, client: Client) -> None:
    there = shared.client(at=1, user=client.user)
    other = shared.client(at=1, user=client.user, tenant="t")
    ids = [(await c.call("GET", "/v1/me", 200))["id"] for c in (client, there, other)]
    assert ids[0] == ids[1] != ids[2]


async def test_only_so_many_runs_wait_in_a_session(client: Client, slow: str) -> None:
    session, run = await occupied(client, slow)
    path = f"/v1/sessions/{session}"
    body = {"content": "And then?", "on_active_run": "enqueue"}
    for left in (2, 1):
        await client.call("POST", f"{path}/messages", 202, json=body)
        assert (await remaining(client))["queued_runs"] == left
    before = await client.call("GET", path, 200)
    for noun, wanted in (("messages", body), ("runs", {"on_active_run": "enqueue"})):
        assert_come_back(await client.http.post(f"{path}/{noun}", json=wanted), "too_many_runs")
    streamed = await client.http.post(
        f"{path}/messages", json=body, headers={"Accept": "text/event-stream"}
    )
    assert_come_back(streamed, "too_many_runs")
    after = await client.call("GET", f"{path}/messages", 200)
    assert len([m for m in after["data"] if m["role"] == "user"]) == 3
    assert (await client.call("GET", f"{path}/runs", 200))["data"][0]["seq"] <= before["last_seq"]
    # What is only stored waits for nobody.
    await client.call("POST", f"{path}/messages", 202, json={"content": "Note.", "run": False})
    await client.call("DELETE", path, 204)
    assert run


async def test_a_user_has_only_so_many_runs_waiting(client: Client, slow: str) -> None:
    first, _ = await occupied(client, slow)
    second, _ = await occupied(client, slow)
    third = await client.open_session()
    waiting = [
        (await client.post(session, "And then?", on_active_run="enqueue"))["run"]["id"]
        for session in (first, first, second)
    ]
    assert (await remaining(client))["queued_runs"] == 0
    refused = await client.http.post(
        f"/v1/sessions/{third}/messages", json={"content": "Solve 2x = 6"}
    )
    assert_come_back(refused, "too_many_runs")
    assert (await client.call("GET", f"/v1/sessions/{third}", 200))["last_seq"] == 0
    await client.call("POST", f"/v1/sessions/{first}/runs/{waiting[0]}/cancel", 202)
    assert (await remaining(client))["queued_runs"] == 1
    run, _ = await client.ask(third, "Solve 2x = 6")
    assert run["status"] == "completed"
    for session in (first, second):
        await client.call("DELETE", f"/v1/sessions/{session}", 204)


async def test_runs_of_deleted_sessions_do_not_count(client: Client, slow: str) -> None:
    session, _ = await occupied(client, slow)
    for _ in range(2):
        await client.post(session, "And then?", on_active_run="enqueue")
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    assert (await remaining(client))["queued_runs"] == 3


async def test_another_user_s_runs_do_not_count(shared: Stack, client: Client, slow: str) -> None:
    session, _ = await occupied(client, slow)
    await client.post(session, "And then?", on_active_run="enqueue")
    same_name = shared.client(at=len(shared.api_urls) - 1, user=client.user, tenant="t")
    assert (await remaining(same_name))["queued_runs"] == 3
    await client.call("DELETE", f"/v1/sessions/{session}", 204)


async def test_a_user_has_only_so_many_streams(client: Client) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    async with AsyncExitStack() as streams:
        for left in (1, 0):
            opened = await streams.enter_async_context(client.http.stream("GET", f"{path}/events"))
            assert opened.status_code == 200
            assert (await remaining(client))["streams"] == left
        refused = await client.http.get(f"{path}/events")
        assert_come_back(refused, "too_many_streams")
        posted = await client.http.post(
            f"{path}/messages", json={"content": "Hello."}, headers={"Accept": "text/event-stream"}
        )
        assert_come_back(posted, "too_many_streams")
        assert (await client.call("GET", path, 200))["last_seq"] == 0
        run = (await client.post(session, "Solve 2x = 6"))["run"]["id"]
        assert_come_back(await client.http.get(f"{path}/runs/{run}/events"), "too_many_streams")
        await client.ended(session, run)

    async def are_closed() -> bool:
        return bool((await remaining(client))["streams"] == 2)

    await until(are_closed)
    assert "event: done" in await client.stream(f"{path}/runs/{run}/events")
    await until(are_closed)


async def test_a_refused_stream_takes_no_room(client: Client) -> None:
    for _ in range(5):
        await client.call("GET", "/v1/sessions/sess_none/events", 404)
        session = await client.open_session()
        await client.call("GET", f"/v1/sessions/{session}/events", 400, params={"after": "x"})
    assert (await remaining(client))["streams"] == 2


async def test_streams_opened_at_once_are_counted(client: Client) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}/events"
    statuses: list[int] = []
    counted = asyncio.Event()

    async def read() -> None:
        async with client.http.stream("GET", path) as response:
            statuses.append(response.status_code)
            if len(statuses) == 8:
                counted.set()
            await counted.wait()

    await asyncio.wait_for(asyncio.gather(*(read() for _ in range(8))), 30)
    assert sorted(statuses) == [200] * 2 + [429] * 6


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("x" * 100, 202),
        ("가" * 100, 202),
        ("\N{GRINNING FACE}" * 100, 202),
        ("x" * 101, 422),
        ([{"type": "text", "text": "x" * 50}] * 2, 202),
        ([{"type": "text", "text": "x" * 50}, {"type": "text", "text": "x" * 51}], 422),
    ],
    ids=["whole", "wide", "astral", "more", "parts", "more in parts"],
)
async def test_a_message_has_only_so_many_characters(
    client: Client, content: Any, status: int
) -> None:
    session = await client.open_session()
    body = {"content": content, "run": False}
    found = await client.call("POST", f"/v1/sessions/{session}/messages", status, json=body)
    if status == 422:
        assert found["errors"][0]["loc"] == ["body", "content"]
        assert (await client.call("GET", f"/v1/sessions/{session}", 200))["last_seq"] == 0


async def test_a_body_has_only_so_many_bytes(client: Client) -> None:
    body = {"title": "가" * 256, "metadata": {str(n): "가" * 512 for n in range(16)}}
    refused = await client.http.post("/v1/sessions", json=body)
    assert refused.status_code == 413
    assert refused.json()["code"] == "body_too_large"
    assert (await client.call("GET", "/v1/sessions", 200))["data"] == []


async def test_titles_and_metadata_are_bounded_by_characters(shared: Stack) -> None:
    client = shared.client()
    most = {
        "title": "\N{GRINNING FACE}" * 256,
        "metadata": {f"{n:02}" + "가" * 62: "가" * 512 for n in range(16)},
    }
    made = await client.call("POST", "/v1/sessions", 201, json=most)
    assert {name: made[name] for name in most} == most
    for more in (
        {"title": "x" * 257},
        {"metadata": {str(n): "" for n in range(17)}},
        {"metadata": {"k" * 65: ""}},
        {"metadata": {"k": "x" * 513}},
    ):
        await client.call("POST", "/v1/sessions", 422, json=more)
        await client.call("PATCH", f"/v1/sessions/{made['id']}", 422, json=more)


async def test_the_documented_limits_are_the_defaults(shared: Stack) -> None:
    found = await shared.client().call("GET", "/v1/me", 200)
    assert found["limits"] == {
        "message_chars": 32_000,
        "queued_runs_per_session": 10,
        "queued_runs": 20,
        "streams": 20,
        "tool_output_chars": 200_000,
        **FILES,
    }


async def test_posts_at_once_in_many_sessions_keep_the_users_limit(
    client: Client, slow: str
) -> None:
    sessions = [(await occupied(client, slow))[0] for _ in range(6)]

    async def enqueue(session: str) -> int:
        body = {"content": f"2+2 {slow}", "on_active_run": "enqueue"}
        return (await client.http.post(f"/v1/sessions/{session}/messages", json=body)).status_code

    statuses = await asyncio.gather(*map(enqueue, sessions * 2))
    assert sorted(statuses) == [202] * 3 + [429] * 9
    for session in sessions:
        await client.call("DELETE", f"/v1/sessions/{session}", 204)
