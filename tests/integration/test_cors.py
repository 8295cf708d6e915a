"""Browsers may call from the origins that are listed, and from no other."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.stack import Stack, token

LISTED = ["https://tutor.example", "http://localhost:5173"]
STRANGERS = [
    "https://evil.example",
    "https://tutor.example.evil.example",
    "https://tutor.example:8443",
    "http://tutor.example",
    "https://TUTOR.example/",
    "null",
    "*",
]
ALLOWED = {"authorization", "content-type", "idempotency-key", "last-event-id"}


@pytest.fixture(scope="module")
async def http(shared: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser's side of an API process that lists two origins."""
    process = await shared.start_api(CORS_ORIGINS=", ".join(LISTED))
    url = shared.api_urls.pop()
    headers = {"Authorization": f"Bearer {token('cors')}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as client:
        yield client
    process.kill()


async def preflight(
    http: httpx2.AsyncClient, origin: str, method: str, headers: str
) -> httpx2.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }
    return await http.options("/v1/sessions", headers=asked)


@pytest.mark.parametrize("origin", LISTED)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_a_listed_origin_may_send_what_clients_send(
    http: httpx2.AsyncClient, origin: str, method: str
) -> None:
    asked = "authorization,content-type,idempotency-key,last-event-id"
    response = await preflight(http, origin, method, asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert method in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower().split(", ")
    assert set(allowed) >= ALLOWED
    assert "access-control-allow-credentials" not in response.headers


async def test_the_vendors_sdk_may_send_its_own_from_a_browser(http: httpx2.AsyncClient) -> None:
    kinds = ("lang", "os", "package-version", "poll-helper", "retry-count", "timeout")
    asked = ",".join(["openai-beta", *(f"x-stainless-{kind}" for kind in kinds)])
    response = await preflight(http, LISTED[0], "POST", asked)
    assert response.status_code == 200
    answer = await http.get("/openai/v1/models", headers={"Origin": LISTED[0]})
    assert "OpenAI-Poll-After-Ms" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", STRANGERS)
async def test_no_other_origin_may(http: httpx2.AsyncClient, origin: str) -> None:
    response = await preflight(http, origin, "POST", "authorization")
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    plain = await http.get("/v1/me", headers={"Origin": origin})
    assert plain.status_code == 200
    assert "access-control-allow-origin" not in plain.headers


@pytest.mark.parametrize(
    ("method", "headers"),
    [("PUT", "authorization"), ("POST", "x-user-id"), ("POST", "cookie")],
)
async def test_nothing_else_may_be_sent(
    http: httpx2.AsyncClient, method: str, headers: str
) -> None:
    response = await preflight(http, LISTED[0], method, headers)
    assert response.status_code == 400


async def test_answers_and_refusals_can_be_read_by_a_listed_origin(
    http: httpx2.AsyncClient,
) -> None:
    origin = {"Origin": LISTED[0]}
    opened = await http.post("/v1/sessions", json={}, headers=origin)
    assert opened.status_code == 201
    session = opened.json()["id"]
    calls = [
        ("GET", "/v1/me", 200),
        ("GET", "/v1/sessions/sess_none", 404),
        ("GET", "/v1/sessions?limit=0", 422),
        ("PUT", "/v1/sessions", 405),
        ("DELETE", f"/v1/sessions/{session}", 204),
    ]
    answers = [opened]
    for method, path, status in calls:
        answers.append(await http.request(method, path, headers=origin))
        assert answers[-1].status_code == status
    answers.append(await http.get("/v1/me", headers={**origin, "Authorization": "Bearer x"}))
    answers.append(
        await http.post(
            "/v1/sessions",
            content=b'{"title":"' + b"x" * (3 << 20) + b'"}',
            headers={**origin, "Content-Type": "application/json"},
        )
    )
    assert [answer.status_code for answer in answers[-2:]] == [401, 413]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == LISTED[0]
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"Location", "Retry-After"} <= set(exposed)
        assert "origin" in answer.headers["vary"].lower()
        assert "access-control-allow-credentials" not in answer.headers


async def test_streams_can_be_read_by_a_listed_origin(http: httpx2.AsyncClient) -> None:
    session = (await http.post("/v1/sessions", json={})).json()["id"]
    path = f"/v1/sessions/{session}/events"
    async with http.stream("GET", path, headers={"Origin": LISTED[1]}) as response:
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == LISTED[1]


async def test_without_a_list_no_origin_may(shared: Stack) -> None:
    async with httpx2.AsyncClient(base_url=shared.api_urls[0]) as plain:
        response = await preflight(plain, LISTED[0], "POST", "authorization")
        assert response.status_code == 405
        live = await plain.get("/healthz", headers={"Origin": LISTED[0]})
        for answer in (response, live):
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_fault_of_ours_can_be_read_by_a_listed_origin(
    database_url: str, tmp_path: Path
) -> None:
    """It has every header that other answers have, and its id is in the log's reach."""
    stack = Stack(database_url, tmp_path / "fault", CORS_ORIGINS=LISTED[0])
    try:
        await stack.start_api()
        await stack.fetch("ALTER TABLE assistants RENAME TO gone")
        client = stack.client()
        response = await client.http.get("/v1/assistants", headers={"Origin": LISTED[0]})
        assert response.status_code == 500
        found = response.json()
        assert found["code"] == "internal_error"
        assert found["request_id"] == response.headers["x-request-id"]
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["access-control-allow-origin"] == LISTED[0]
        assert "gone" not in response.text
        assert stack.logs().count("a request failed") == 1
        await client.call("GET", "/v1/sessions", 200)
    finally:
        await stack.close()
