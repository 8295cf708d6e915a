"""Every error is a problem of one shape, whatever was sent, and none repeats the input."""

import json
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from app.api.problems import Problem
from tests.stack import Client, Stack

CANARY = "canary7f3a91"
SCOPE = "assistants:write"
COUNTS = """
SELECT (SELECT count(*) FROM sessions WHERE user_id = $1),
       (SELECT coalesce(sum(last_seq), 0) FROM sessions WHERE user_id = $1),
       (SELECT count(*) FROM sessions WHERE user_id = $1 AND title = 'untouched'),
       (SELECT count(*) FROM messages m JOIN sessions s ON s.id = m.session_id
        WHERE s.user_id = $1),
       (SELECT count(*) FROM runs WHERE user_id = $1),
       (SELECT count(*) FROM stream_tickets WHERE user_id = $1),
       (SELECT count(*) FROM assistants WHERE tenant = $2),
       (SELECT coalesce(sum(version), 0) FROM assistants WHERE tenant = $2)
"""


def assert_problem(response: httpx2.Response, *statuses: int) -> dict[str, Any]:
    """Check an error's whole shape, and that it repeats nothing."""
    assert response.status_code in statuses, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    found: dict[str, Any] = response.json()
    Problem.model_validate(found, strict=True, extra="allow")
    assert found["type"] == "about:blank"
    assert found["status"] == response.status_code
    assert found["title"]
    assert found["detail"]
    assert found["code"].replace("_", "").isalpha()
    assert found["request_id"] == response.headers["x-request-id"]
    assert ("errors" in found) is (response.status_code == 422)
    for error in found.get("errors", ()):
        assert set(error) == {"loc", "msg", "type"}
    whole = response.text + repr(response.headers)
    assert CANARY not in whole.lower()
    return found


class Place:
    """A user with a tenant, a session and an assistant of its own, and what is counted."""

    def __init__(self, stack: Stack, client: Client, tenant: str) -> None:
        self.stack, self.client, self.tenant = stack, client, tenant
        self.session = self.assistant = self.user_id = ""

    async def counts(self) -> tuple[int, ...]:
        (row,) = await self.stack.fetch(COUNTS, self.user_id, self.tenant)
        return tuple(int(value) for value in row)

    def path(self, template: str) -> str:
        return template.format(session=self.session, assistant=self.assistant)


@pytest.fixture(scope="module")
async def place(shared: Stack) -> Place:
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    found = Place(shared, shared.client(scope=SCOPE, tenant=tenant), tenant)
    client = found.client
    found.session = await client.open_session(title="untouched")
    await client.post(found.session, "Hello.", run=False)
    made = await client.call("POST", "/v1/assistants", 201, json={"model": "m"})
    found.assistant = made["id"]
    found.user_id = (await client.call("GET", "/v1/me", 200))["id"]
    return found


@pytest.fixture(autouse=True)
async def _nothing_is_written_or_logged(place: Place) -> AsyncIterator[None]:
    before, logged = await place.counts(), len(place.stack.logs())
    yield
    assert await place.counts() == before
    logs = place.stack.logs()[logged:]
    assert CANARY not in logs
    assert "Traceback" not in logs


BIG = CANARY + "x" * 600
METADATA: list[Any] = [
    {"metadata": None},
    {"metadata": [CANARY]},
    {"metadata": CANARY},
    {"metadata": {"k": 1}},
    {"metadata": {"k": None}},
    {"metadata": {"k": {"k": CANARY}}},
    {"metadata": {"k": BIG}},
    {"metadata": {BIG: "v"}},
    {"metadata": {"": CANARY}},
    {"metadata": {f"{CANARY}{number}": "v" for number in range(17)}},
    {"metadata": {f"{CANARY}\x00": "v"}},
    {"metadata": {f"{CANARY}\ud800": "v"}},
    {"metadata": {f"{CANARY}\r\nX-Injected: 1": "v"}},
    {"metadata": {"k": f"{CANARY}\x00"}},
    {"metadata": {"k": f"{CANARY}\udfff"}},
]
LINES: list[Any] = [5, True, [CANARY], {CANARY: 1}, BIG, *[f"{CANARY}{c}x" for c in (
    "\x00", "\ud800", "\r", "\n", "\r\n", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\t"
)]]  # fmt: skip
UNKNOWN: list[Any] = [
    {name: CANARY}
    for name in (
        CANARY,
        f"{CANARY}\x00",
        f"{CANARY}\ud800",
        f"{CANARY}\r\nX: y",
        "id",
        "user_id",
        "tenant",
        "role",
        "seq",
        "fence",
        "upstream_thread_id",
        "active_run_id",
        "instructions_",
        "__proto__",
        "__class__",
        "model_config",
    )
]


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"a": [inner]}
    return inner


JSON_OBJECTS: list[Any] = [
    CANARY,
    [CANARY],
    5,
    {"a": f"{CANARY}\x00"},
    {"a": [{"b": f"{CANARY}\ud800"}]},
    {f"{CANARY}\x00": 1},
    {"a": float("nan")},
    {"a": [float("inf")]},
    {"a": float("-inf")},
    nested(60, CANARY),
    nested(200, CANARY),
]
ASSISTANT: list[Any] = [
    *({"name": value} for value in LINES),
    *({"model": value} for value in [*LINES, "", None]),
    {"description": BIG},
    {"description": f"{CANARY}\x00"},
    {"description": 5},
    {"instructions": CANARY + "x" * 256_000},
    {"instructions": f"{CANARY}\ud800"},
    {"instructions": [CANARY]},
    {"temperature": 2.1},
    {"temperature": -0.1},
    {"temperature": CANARY},
    {"temperature": "1"},
    {"temperature": True},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"top_p": 1.1},
    {"top_p": None},
    {"top_p": "0.5"},
    {"top_p": False},
    {"top_p": float("nan")},
    *({"tool_resources": value} for value in JSON_OBJECTS),
    *({"response_format": value} for value in JSON_OBJECTS),
    {"response_format": None},
    {"tools": CANARY},
    {"tools": {CANARY: 1}},
    {"tools": [CANARY]},
    {"tools": [{"type": CANARY}]},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {"name": f"{CANARY} x"}}]},
    {"tools": [{"type": "function", "function": {"name": "f" * 65}}]},
    {"tools": [{"type": "function", "function": {"name": "f\n"}}]},
    {"tools": [{"type": "function", "function": {"name": "f", CANARY: 1}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": f"{CANARY}\x00"}}]},
    *(
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]}
        for value in JSON_OBJECTS
    ),
    {"tools": [{"type": "function", "function": {"name": "f"}}] * 129},
    {"version": 7},
    *METADATA,
    *UNKNOWN,
]
MESSAGES, RUNS = "/v1/sessions/{session}/messages", "/v1/sessions/{session}/runs"
BODIES: dict[tuple[str, str], list[Any]] = {
    ("POST", "/v1/sessions"): [
        *({"title": value} for value in LINES),
        {"assistant_id": 5},
        {"assistant_id": f"asst_{BIG}"},
        {"assistant_id": f"asst_{CANARY}\ud800"},
        {"status": "ended"},
        *METADATA,
        *UNKNOWN,
    ],
    ("PATCH", "/v1/sessions/{session}"): [
        *({"title": value} for value in LINES),
        {"status": "open"},
        {"status": CANARY},
        {"status": 5},
        {"assistant_id": "asst_default"},
        {"last_seq": 0},
        *(body for body in METADATA if body["metadata"] is not None),
        *UNKNOWN,
    ],
    ("POST", MESSAGES): [
        {},
        {"content": None},
        {"content": ""},
        {"content": " \r\n\t"},
        {"content": []},
        {"content": 5},
        {"content": {CANARY: CANARY}},
        {"content": f"{CANARY}\x00"},
        {"content": f"{CANARY}\ud800"},
        {"content": CANARY + "x" * 32_000},
        {"content": [CANARY]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "text", "text": ""}]},
        {"content": [{"type": "text", "text": 5}]},
        {"content": [{"type": "text", "text": f"{CANARY}\x00"}]},
        {"content": [{"type": "text", "text": CANARY, CANARY: 1}]},
        {"content": [{"type": "text", "text": CANARY, "annotations": []}]},
        {"content": [{"type": CANARY, "text": CANARY}]},
        {"content": [{"type": "image_url", "image_url": f"http://169.254.169.254/{CANARY}"}]},
        {"content": [{"type": "text", "text": CANARY}] * 65},
        {"content": [{"type": "text", "text": "x" * 20_000}] * 2},
        {"content": CANARY, "role": "assistant"},
        *({"content": CANARY, "run": value} for value in ("yes", 1, 0, None, CANARY)),
        *({"content": CANARY, "on_active_run": v} for v in (CANARY, 5, None, [], "REJECT")),
        *({"content": CANARY, **body} for body in METADATA),
        *({"content": CANARY, **body} for body in UNKNOWN),
    ],
    ("POST", RUNS): [
        {"on_active_run": CANARY},
        {"on_active_run": None},
        {"content": CANARY},
        {"model": CANARY},
        {"instructions": CANARY},
        *METADATA,
        *UNKNOWN,
    ],
    ("POST", "/v1/assistants"): [
        {},
        *({"model": "m", **body} for body in ASSISTANT),
    ],
    ("PATCH", "/v1/assistants/{assistant}"): ASSISTANT,
}


@pytest.mark.parametrize("route", BODIES, ids=" ".join)
async def test_fields_that_are_wrong_or_unknown_are_refused(
    place: Place, route: tuple[str, str]
) -> None:
    method, template = route
    for body in BODIES[route]:
        response = await place.client.http.request(
            method,
            place.path(template),
            content=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        found = assert_problem(response, 422)
        assert found["code"] == "invalid_request", body
        assert found["errors"], body


RAW: list[tuple[bytes, int]] = [
    (f'{{"title": "{CANARY}"'.encode(), 400),
    (CANARY.encode(), 400),
    (f"{{'{CANARY}': 1}}".encode(), 400),
    (f'{{"{CANARY}": 1,}}'.encode(), 400),
    (f'{{"title": "{CANARY}\n"}}'.encode(), 400),
    (f'{{"{CANARY}": {"9" * 5000}}}'.encode(), 400),
    (f'{{"title": "{CANARY}\xff"}}'.encode("latin-1"), 400),
    (b'{"title": "\xed\xa0\x80"}', 422),
    (b'\xef\xbb\xbf{"title": 5}', 422),
    (b"\x00", 400),
    (b"[" * 100_000, 400),
    (b'{"a":' * 50_000, 400),
    (b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}", 422),
    (b"null", 422),
    (b"[]", 422),
    (b"5", 422),
    (f'"{CANARY}"'.encode(), 422),
    (b"", 422),
]
JSON_ROUTES = list(BODIES)


@pytest.mark.parametrize("route", JSON_ROUTES, ids=" ".join)
async def test_what_is_no_json_object_is_refused(place: Place, route: tuple[str, str]) -> None:
    method, template = route
    for body, status in RAW:
        response = await place.client.http.request(
            method,
            place.path(template),
            content=body,
            headers={"Content-Type": "application/json"},
        )
        # Some depths are read, and then are no object.
        found = assert_problem(response, *({400, 422} if body[:1] == b"[" else {status}))
        assert found["code"] == ("invalid_json" if found["status"] == 400 else "invalid_request")


@pytest.mark.parametrize("route", JSON_ROUTES, ids=" ".join)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        f"application/{CANARY}",
        CANARY,
    ],
)
async def test_a_body_of_another_type_is_refused(
    place: Place, route: tuple[str, str], content_type: str | None
) -> None:
    method, template = route
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps({"title": CANARY, "content": CANARY, "model": CANARY})
    request = place.client.http.build_request(
        method, place.path(template), content=body.encode(), headers=headers
    )
    assert_problem(await place.client.http.send(request), 415, 422)


async def test_an_assistant_that_cannot_be_is_not_found(place: Place) -> None:
    answers = []
    for wanted in (CANARY, "asst_none", "", f"asst_{CANARY}\x00", "a\r\nb"):
        body = json.dumps({"assistant_id": wanted})
        headers = {"Content-Type": "application/json"}
        response = await place.client.http.post("/v1/sessions", content=body, headers=headers)
        found = assert_problem(response, 404)
        answers.append({**found, "request_id": ""})
    assert all(answer == answers[0] for answer in answers)


# ---------------------------------------------------------------- queries, cursors, paths

LISTS = ["/v1/sessions", "/v1/assistants", MESSAGES, RUNS]


@pytest.mark.parametrize("listed", LISTS)
@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"limit": CANARY}, 422),
        ({"limit": "0"}, 422),
        ({"limit": "-1"}, 422),
        ({"limit": "101"}, 422),
        ({"limit": "1.5"}, 422),
        ({"limit": "9" * 40}, 422),
        ({"limit": "nan"}, 422),
        ({"limit": ""}, 422),
        ({"order": CANARY}, 422),
        ({"order": "DESC"}, 422),
        ({"order": "desc\n"}, 422),
        ({"after": "sess_1", "before": "sess_1"}, 422),
        ({"after": CANARY, "before": CANARY}, 422),
        ({"after": "", "before": ""}, 422),
        ({"after": CANARY}, 404),
        ({"after": "sess_none"}, 404),
        ({"before": "msg_none"}, 404),
        ({"after": ""}, 404),
        ({"after": f"{CANARY}\x00"}, 404),
        ({"before": f"{CANARY}\r\n"}, 404),
        ({"before": "' OR 1=1 --"}, 404),
        ({"after": "sess_" + "1" * 9000}, 404),
    ],
    ids=str,
)
async def test_wrong_pages_are_refused(
    place: Place, listed: str, params: dict[str, str], status: int
) -> None:
    response = await place.client.http.get(place.path(listed), params=params)
    assert_problem(response, status)


@pytest.mark.parametrize("run_id", [CANARY + "\x00", "\x00", "x" * 129, "a\r\nb", "\N{SNOWMAN}"])
async def test_a_run_that_cannot_be_filters_nothing_out_of_order(
    place: Place, run_id: str
) -> None:
    path = place.path(MESSAGES)
    assert_problem(await place.client.http.get(path, params={"run_id": run_id}), 404, 422)


@pytest.mark.parametrize(
    "params",
    [
        {"wait": CANARY},
        {"wait": "-1"},
        {"wait": "61"},
        {"wait": "nan"},
        {"wait": "inf"},
        {"wait": "1e400"},
        {"known": CANARY},
        {"known": "\x00"},
    ],
    ids=str,
)
async def test_wrong_waits_are_refused(place: Place, params: dict[str, str]) -> None:
    path = place.path("/v1/sessions/{session}/runs/run_1")
    assert_problem(await place.client.http.get(path, params=params), 422)


CURSORS = [CANARY, "-1", "+1", "1.5", "1e3", "0x10", "1 x", "9" * 19, "9" * 5000, "1_0"]


@pytest.mark.parametrize("stream", ["/events", "/runs/run_1/events"])
@pytest.mark.parametrize("cursor", CURSORS)
async def test_a_malformed_event_cursor_is_refused_before_the_first_byte(
    place: Place, stream: str, cursor: str
) -> None:
    path = place.path("/v1/sessions/{session}") + stream
    for arguments in ({"params": {"after": cursor}}, {"headers": {"Last-Event-ID": cursor}}):
        found = assert_problem(await place.client.http.get(path, **arguments), 400)
        assert found["code"] == "invalid_cursor"


@pytest.mark.parametrize("cursor", ["\u0663", "\x00", "1\n2", "\N{SUPERSCRIPT TWO}"])
async def test_digits_of_other_scripts_are_no_cursor(place: Place, cursor: str) -> None:
    path = place.path("/v1/sessions/{session}/events")
    assert_problem(await place.client.http.get(path, params={"after": cursor}), 400)


IDS = [
    CANARY,
    f"sess_{CANARY}%00",
    f"sess_{CANARY}%0d%0aX-Injected:%201",
    "sess_%ff%fe",
    "sess_%ed%a0%80",
    "sess_1%27%20OR%201=1",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "sess_" + "1" * 9000,
    "%F0%9F%98%80",
    "sess_none",
]


@pytest.mark.parametrize("wrong", IDS, ids=lambda wrong: wrong[:24])
async def test_what_names_nothing_is_not_found_on_every_route(place: Place, wrong: str) -> None:
    http, session = place.client.http, place.session
    seen: list[dict[str, Any]] = []
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/v1/assistants/{wrong}", None),
        ("PATCH", f"/v1/assistants/{wrong}", {"name": "x"}),
        ("DELETE", f"/v1/assistants/{wrong}", None),
        ("GET", f"/v1/sessions/{wrong}", None),
        ("PATCH", f"/v1/sessions/{wrong}", {"title": "x"}),
        ("DELETE", f"/v1/sessions/{wrong}", None),
        ("POST", f"/v1/sessions/{wrong}/stream_tickets", None),
        ("GET", f"/v1/sessions/{wrong}/events", None),
        ("GET", f"/v1/sessions/{wrong}/messages", None),
        ("POST", f"/v1/sessions/{wrong}/messages", {"content": "x"}),
        ("GET", f"/v1/sessions/{session}/messages/{wrong}", None),
        ("GET", f"/v1/sessions/{wrong}/runs", None),
        ("POST", f"/v1/sessions/{wrong}/runs", {}),
        ("GET", f"/v1/sessions/{session}/runs/{wrong}", None),
        ("POST", f"/v1/sessions/{session}/runs/{wrong}/cancel", None),
        ("GET", f"/v1/sessions/{session}/runs/{wrong}/events", None),
    ]
    for method, path, body in calls:
        found = assert_problem(await http.request(method, path, json=body), 404)
        seen.append({**found, "request_id": ""})
    if not wrong.startswith("%2e"):
        assert all(found == seen[0] for found in seen)


# ---------------------------------------------------------------- size


def chunks(size: int) -> Iterator[bytes]:
    yield b'{"title": "'
    for _ in range(size // 65_536):
        yield b"x" * 65_536
    yield b'"}'


async def pieces(size: int) -> AsyncIterator[bytes]:
    for piece in chunks(size):
        yield piece


@pytest.mark.parametrize("mebibytes", [3, 20])
@pytest.mark.parametrize("announced", [True, False], ids=["with a length", "in chunks"])
async def test_a_body_over_two_mebibytes_is_refused(
    place: Place, mebibytes: int, *, announced: bool
) -> None:
    size = mebibytes << 20
    content: Any = b"".join(chunks(size)) if announced else pieces(size)
    response = await place.client.http.post(
        "/v1/sessions", content=content, headers={"Content-Type": "application/json"}
    )
    assert assert_problem(response, 413)["code"] == "body_too_large"


async def test_a_body_just_under_two_mebibytes_is_read(place: Place) -> None:
    body = b'{"title": "' + b"x" * ((2 << 20) - 13) + b'"}'
    assert len(body) == 2 << 20
    headers = {"Content-Type": "application/json"}
    assert_problem(
        await place.client.http.post("/v1/sessions", content=body, headers=headers), 422
    )


async def test_a_length_that_is_announced_is_refused_before_the_body_comes(place: Place) -> None:
    url = urlsplit(place.stack.api_urls[0])
    head = (
        f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {place.client.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n"
    )
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=5) as raw:
        raw.sendall(head.encode())
        answer = b""
        while b"body_too_large" not in answer and (piece := raw.recv(65_536)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


# ---------------------------------------------------------------- methods and unknown paths


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v1/{CANARY}", 404),
        ("POST", f"/{CANARY}", 404),
        ("GET", f"/{CANARY}%00", 404),
        ("GET", "/v2/sessions", 404),
        ("GET", "/.env", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("GET", "/metrics", 404),
        ("GET", "/debug", 404),
        ("GET", "/sandbox/faults", 404),
        ("PUT", "/v1/sessions", 405),
        ("DELETE", "/v1/sessions", 405),
        ("PATCH", "/v1/me", 405),
        ("TRACE", "/v1/me", 405),
        ("OPTIONS", "/v1/sessions", 405),
        ("PUT", "/v1/sessions/{session}", 405),
        ("DELETE", "/v1/sessions/{session}/messages", 405),
        ("POST", "/v1/sessions/{session}/events", 405),
        ("GET", "/v1/sessions/{session}/runs/run_1/cancel", 405),
        ("POST", "/healthz", 405),
    ],
)
async def test_unknown_paths_and_methods_are_problems(
    place: Place, method: str, path: str, status: int
) -> None:
    response = await place.client.http.request(method, place.path(path))
    found = assert_problem(response, status)
    assert found["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
    assert ("allow" in response.headers) is (status == 405)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sessions", "GET, POST"),
        ("/v1/assistants/{assistant}", "GET, PATCH, DELETE"),
        ("/v1/sessions/{session}", "GET, PATCH, DELETE"),
        (MESSAGES, "GET, POST"),
        ("/v1/sessions/{session}/stream_tickets", "POST"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_all_the_right_ones(
    place: Place, path: str, methods: str
) -> None:
    response = await place.client.http.put(place.path(path))
    assert_problem(response, 405)
    assert response.headers["allow"] == methods


@pytest.mark.parametrize("path", ["/v1/me", "/v1/sessions", "/v1/none"])
async def test_a_head_has_a_status_and_no_body(place: Place, path: str) -> None:
    response = await place.client.http.head(path)
    assert response.status_code in {404, 405}
    assert response.content == b""
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_may_be_asked_for_by_head(place: Place, path: str) -> None:
    response = await place.client.http.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert (await place.client.http.post(path)).headers["allow"] == "GET, HEAD"


async def test_a_slash_too_many_leads_nowhere_that_a_caller_chooses(place: Place) -> None:
    response = await place.client.http.get("/v1/sessions/", headers={"Host": f"{CANARY}.test"})
    assert CANARY not in repr(response.headers)
