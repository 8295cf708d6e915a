"""Nobody reaches what is somebody else's: on every route it looks as if it were not there."""

import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from app.main import create_app
from app.settings import Settings
from tests.stack import Client, Stack, token

SCOPE = "assistants:write"
BODIES: dict[tuple[str, str], Any] = {
    ("PATCH", "/v1/assistants/{assistant_id}"): {"name": "taken over"},
    ("PATCH", "/v1/sessions/{session_id}"): {"title": "taken over"},
    ("POST", "/v1/sessions/{session_id}/messages"): {"content": "taken over"},
    ("POST", "/v1/sessions/{session_id}/runs"): {},
    ("POST", "/v1/sessions/{session_id}/runs/{run_id}/tool_outputs"): {
        "tool_outputs": [{"tool_call_id": "call_1", "output": "taken over"}]
    },
}


def routes() -> list[tuple[str, str]]:
    """Every route that names something by its id, also those that are yet to come."""
    document = create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]
    return [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if "{" in path
    ]


ROUTES = routes()
SESSION_ROUTES = [route for route in ROUTES if "{session_id}" in route[1]]
LISTS = [
    "/v1/files",
    "/v1/sessions",
    "/v1/sessions/{session_id}/messages",
    "/v1/sessions/{session_id}/runs",
]


@dataclass
class Place:
    """What belongs to one user, and a session of somebody else's own."""

    stack: Stack
    owner: Client
    ids: dict[str, str]
    tenant: str
    stranger: Client
    own: dict[str, str]

    async def digest(self) -> Any:
        session = self.ids["session_id"]
        return await self.stack.fetch(
            "SELECT s.*, (SELECT count(*) FROM messages WHERE session_id = s.id),"
            " (SELECT count(*) FROM runs WHERE session_id = s.id),"
            " (SELECT count(*) FROM stream_tickets WHERE session_id = s.id),"
            " (SELECT version FROM assistants WHERE id = $2),"
            " (SELECT count(*) FROM files WHERE id = $3) FROM sessions s WHERE s.id = $1",
            session,
            self.ids["assistant_id"],
            self.ids["file_id"],
        )


async def belongings(client: Client) -> dict[str, str]:
    assistant = await client.call("POST", "/v1/assistants", 201, json={"model": "m"})
    session = await client.open_session(title="mine")
    run, _ = await client.ask(session, "Solve 2x = 6")
    file = await client.call("POST", "/v1/files", 201, files={"file": ("q.txt", b"2x = 6")})
    return {
        "file_id": file["id"],
        "session_id": session,
        "message_id": run["output_message_id"],
        "run_id": run["id"],
        "assistant_id": assistant["id"],
    }


@pytest.fixture(scope="module")
async def place(shared: Stack) -> Place:
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    owner = shared.client(scope=SCOPE, tenant=tenant)
    stranger = shared.client(scope=SCOPE, tenant=f"{tenant}-other")
    ids, own = await belongings(owner), await belongings(stranger)
    return Place(shared, owner, ids, tenant, stranger, own)


@pytest.fixture(autouse=True)
async def _nothing_changes(place: Place) -> AsyncIterator[None]:
    before = await place.digest()
    yield
    assert await place.digest() == before


async def ask(
    client: Client, route: tuple[str, str], ids: dict[str, str], **more: Any
) -> tuple[int, Any]:
    """Call a route and return the status and the body, without the id of the request."""
    method, template = route
    path = template.format(**ids)
    response = await client.http.request(method, path, json=BODIES.get(route), **more)
    found: dict[str, Any] = response.json()
    assert found.pop("request_id") == response.headers["x-request-id"]
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in {"x-request-id", "content-length"}
    }
    return response.status_code, (found, headers)


def absent(ids: dict[str, str]) -> dict[str, str]:
    return {
        name: f"{value.partition('_')[0]}_{uuid.uuid4().hex[:24]}" for name, value in ids.items()
    }


def of_kind(place: Place, kind: str) -> Client:
    """A stranger: to the owner as close as the kind says."""
    owner, stack = place.owner.user, place.stack
    match kind:
        case "another user of the tenant":
            return stack.client(scope=SCOPE, tenant=place.tenant)
        case "the same subject of another tenant":
            return stack.client(user=owner, scope=SCOPE, tenant=f"{place.tenant}2")
        case "the same subject of no tenant":
            return stack.client(user=owner, scope=SCOPE)
        case "the tenant's name as a subject":
            return stack.client(user=place.tenant, scope=SCOPE, tenant=owner)
        case _:
            return stack.client(user=owner.upper(), scope=SCOPE, tenant=place.tenant)


KINDS = [
    "another user of the tenant",
    "the same subject of another tenant",
    "the same subject of no tenant",
    "the tenant's name as a subject",
    "the subject in capitals",
]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_foreign_looks_like_the_absent_on_every_route(place: Place, kind: str) -> None:
    client = of_kind(place, kind)
    shares_tutors = kind in {KINDS[0], KINDS[4]}
    for route in ROUTES:
        if shares_tutors and "assistant_id" in route[1]:
            continue
        status, missing = await ask(client, route, absent(place.ids))
        assert status == 404
        assert await ask(client, route, place.ids) == (404, missing), route


async def test_the_foreign_is_not_reached_through_a_session_of_one_s_own(place: Place) -> None:
    mixed = place.ids | {"session_id": place.own["session_id"]}
    for route in SESSION_ROUTES:
        if "message_id" not in route[1] and "run_id" not in route[1]:
            continue
        nothing = absent(place.ids) | {"session_id": place.own["session_id"]}
        expected = await ask(place.stranger, route, nothing)
        assert expected[0] == 404
        assert await ask(place.stranger, route, mixed) == expected, route


@pytest.mark.parametrize("cursor", ["after", "before"])
@pytest.mark.parametrize("listed", LISTS)
async def test_the_foreign_is_no_cursor(place: Place, listed: str, cursor: str) -> None:
    answers = []
    for named in (*place.ids.values(), *absent(place.ids).values()):
        params = {cursor: named}
        answers.append(await ask(place.stranger, ("GET", listed), place.own, params=params))
    assert answers[0][0] == 404
    assert all(answer == answers[0] for answer in answers)


async def test_the_foreign_is_no_filter_and_no_tutor(place: Place) -> None:
    path = f"/v1/sessions/{place.own['session_id']}/messages"
    for run in (place.ids["run_id"], absent(place.ids)["run_id"]):
        found = await place.stranger.call("GET", path, 200, params={"run_id": run})
        assert found["data"] == []
    answers = []
    for tutor in (place.ids["assistant_id"], absent(place.ids)["assistant_id"]):
        found = await place.stranger.call(
            "POST", "/v1/sessions", 404, json={"assistant_id": tutor}
        )
        answers.append(found | {"request_id": ""})
    assert answers[0] == answers[1]


async def test_lists_hold_what_is_one_s_own(place: Place) -> None:
    for kind in KINDS:
        found = await of_kind(place, kind).call("GET", "/v1/sessions", 200)
        assert found["data"] == []
    mine = await place.owner.call("GET", "/v1/sessions", 200)
    assert [item["id"] for item in mine["data"]] == [place.ids["session_id"]]


TOKENS = {
    "none": {},
    "expired": {"Authorization": f"Bearer {token('x', ttl=-60)}"},
    "empty": {"Authorization": "Bearer"},
    "of no shape": {"Authorization": "Bearer x"},
    "of another scheme": {"Authorization": "Basic YTpi"},
    "signed by somebody else": {"Authorization": f"Bearer {token('x')[:-2]}xx"},
    "of no algorithm": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."},
}


@pytest.mark.parametrize("name", TOKENS)
async def test_without_a_valid_token_nothing_is_told(place: Place, name: str) -> None:
    """The owner's own ids and absent ones, on every route: 401, and one body."""
    url = place.stack.api_urls[0]
    others = [("GET", "/v1/me"), ("GET", "/v1/sessions"), ("GET", "/v1/assistants")]
    seen = []
    async with httpx2.AsyncClient(base_url=url, headers=TOKENS[name]) as http:
        for method, template in ROUTES + others:
            for ids in (place.ids, absent(place.ids)):
                body = BODIES.get((method, template))
                response = await http.request(method, template.format(**ids), json=body)
                assert response.status_code == 401, (method, template)
                assert response.headers["www-authenticate"] == "Bearer"
                seen.append(response.json() | {"request_id": ""})
    assert seen[0]["code"] == "unauthenticated"
    assert all(found == seen[0] for found in seen)


async def test_a_token_that_runs_out_opens_nothing_more(place: Place) -> None:
    brief = place.stack.client(user=place.owner.user, tenant=place.tenant, ttl=1)
    path = f"/v1/sessions/{place.ids['session_id']}"
    ends_at = time.time() + 1
    response = await brief.http.get(path)
    assert response.status_code == 200 or time.time() > ends_at
    while response.status_code == 200:
        assert time.time() < ends_at + 60
        response = await brief.http.get(path)
    assert response.status_code == 401


def test_every_route_is_under_test() -> None:
    assert len(ROUTES) >= 16
    for method, path in ROUTES:
        assert re.fullmatch(r"(/[a-z0-9_]+|/\{[a-z_]+\})+", path)
        needs_body = method in {"PATCH", "POST"} and not path.endswith(
            ("/cancel", "/stream_tickets")
        )
        assert needs_body == ((method, path) in BODIES)
