"""Logs hold ids and codes: no words, tokens, tickets or keys, and no line that a caller wrote."""

import json
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import NewDatabase
from tests.stack import Client, Stack, blocks_of, running, token, until

CANARY = f"canary{uuid.uuid4().hex[:12]}"
FORGED = '{"at":"2026-01-01T00:00:00Z","level":"info","logger":"forged","message":"forged"}'
LEVELS = {"debug", "info", "warning", "error", "critical"}


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Processes that log as much as they can."""
    folder: Path = tmp_path_factory.mktemp("logs")
    async with running(await new_database(), folder, LOG_LEVEL="debug") as found:
        yield found


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client(scope="assistants:write", tenant=f"t-{uuid.uuid4().hex[:8]}")


@pytest.fixture(autouse=True)
async def _logs_are_clean(stack: Stack) -> AsyncIterator[None]:
    yield
    for process in stack.processes:
        text = process.log.read_text(errors="replace")
        assert CANARY not in text
        assert "sk-canary" not in text
        assert "Bearer" not in text
        assert "Traceback" not in text
        if process is stack.sandbox:
            assert len(text.splitlines()) <= 1
            continue
        for line in text.splitlines():
            entry: dict[str, Any] = json.loads(line)
            assert set(entry) - {"run_id", "session_id"} == {"at", "level", "logger", "message"}
            assert entry["level"] in LEVELS
            assert entry["logger"] != "forged"
            assert line.isascii()
            assert line.isprintable()


async def test_words_titles_and_prompts_are_not_logged(stack: Stack, client: Client) -> None:
    body = {"model": "m", "instructions": CANARY, "name": CANARY, "metadata": {CANARY: CANARY}}
    tutor = await client.call("POST", "/v1/assistants", 201, json=body)
    session = await client.open_session(
        assistant_id=tutor["id"], title=CANARY, metadata={"k": CANARY}
    )
    run, answer = await client.ask(session, f"Solve 2x = 6 {CANARY}")
    assert run["status"] == "completed"
    assert answer
    await client.call("PATCH", f"/v1/sessions/{session}", 200, json={"title": CANARY[::-1]})
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    assert stack.logs()


@pytest.mark.parametrize(
    "action",
    [
        {"type": "status", "status": 400, "message": CANARY, "code": CANARY},
        {"type": "status", "status": 401, "message": CANARY},
        {"type": "json_body", "body": {"id": CANARY, "error": CANARY}},
        {"type": "error", "after_deltas": 1, "message": CANARY, "code": CANARY},
        {"type": "unknown_event", "event": CANARY, "at": {"index": 2}},
        {"type": "garbage_json", "at": {"index": 3}},
    ],
    ids=lambda action: action["type"],
)
async def test_what_the_upstream_says_is_not_logged(
    stack: Stack, client: Client, action: dict[str, Any]
) -> None:
    word = f"bad{uuid.uuid4().hex[:8]}"
    rule = {"path": "/v1/responses", "method": "POST", "text": word, "times": 1, "action": action}
    await stack.admin("POST", "faults", rule)
    session = await client.open_session()
    run, _ = await client.ask(session, f"Solve 2x = 6 {word} {CANARY}", within=60)
    assert run["status"] in {"completed", "failed", "incomplete"}
    assert CANARY not in json.dumps(run)


async def test_tokens_and_tickets_are_not_logged(stack: Stack, client: Client) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    ticket = (await client.call("POST", f"{path}/stream_tickets", 201))["ticket"]
    run = (await client.post(session, "Solve 2x = 6"))["run"]["id"]
    plain = stack.client()
    del plain.http.headers["Authorization"]
    told = await plain.stream(f"{path}/runs/{run}/events", params={"ticket": ticket})
    assert blocks_of(told)[-1].event == "done"
    for wrong in (CANARY, f"{ticket}x", f"{CANARY}\r\n", CANARY * 20):
        await plain.call("GET", f"{path}/events", 401, params={"ticket": wrong})
    for named in ("access_token", "token"):
        await plain.call("GET", path, 401, params={named: client.token})
    tokens = [
        client.token,
        token(CANARY, ttl=-60),
        token(CANARY, tenant=CANARY),
        token(CANARY, scope=CANARY) + CANARY,
        f"{CANARY}.{CANARY}.{CANARY}",
        CANARY,
    ]
    for value in tokens:
        await plain.http.get("/v1/me", headers={"Authorization": f"Bearer {value}"})
    logs = stack.logs()
    for secret in (ticket, *tokens, *(value.rpartition(".")[2] for value in tokens)):
        assert secret not in logs


async def test_what_is_refused_is_not_logged(client: Client) -> None:
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"/v1/{CANARY}", {}),
        ("GET", f"/v1/sessions/sess_{CANARY}", {}),
        ("GET", f"/v1/sessions?after=sess_{CANARY}&{CANARY}=1", {}),
        ("GET", f"/v1/sessions?limit={CANARY}", {}),
        ("POST", "/v1/sessions", {"json": {CANARY: CANARY}}),
        ("POST", "/v1/sessions", {"content": f'{{"title": "{CANARY}'}),
        ("POST", "/v1/sessions", {"json": {"title": CANARY * 100}}),
        ("GET", "/v1/me", {"headers": {"X-Request-ID": f"{CANARY} x"}}),
        (
            "GET",
            "/v1/me",
            {"headers": {"User-Agent": CANARY, "Referer": CANARY, "Cookie": CANARY}},
        ),
    ]
    for method, path, more in calls:
        response = await client.http.request(method, path, **more)
        assert response.status_code < 500


LINES = ["\r\n", "\n", "\r", "\\n", "\x1b[2K\x1b[1A", "\x00", "\x85", "\u2028"]
HEADERS = ["X-Request-ID", "User-Agent", "X-Forwarded-For", "Host", "Last-Event-ID", "Cookie"]


@pytest.mark.parametrize("line", LINES, ids=repr)
async def test_a_caller_cannot_write_a_line(stack: Stack, client: Client, line: str) -> None:
    """Raw bytes, as no well-meaning client would send them."""
    url = urlsplit(stack.api_urls[0])
    heads = [
        f"GET /v1/me HTTP/1.1\r\nHost: x\r\n{name}: {CANARY}{line}{FORGED}\r\n\r\n"
        for name in HEADERS
    ]
    heads += [
        f"GET /v1/{CANARY}{line}{FORGED} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /v1/me HTTP/1.1{line}{FORGED}\r\nHost: x\r\n\r\n",
        f"{CANARY}{line}{FORGED}\r\n\r\n",
        f"GET /v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}{line}{FORGED}\r\n\r\n",
    ]
    for head in heads:
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=5) as raw:
            raw.sendall(head.encode())
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65_536):
                pass
    quoted = "".join(f"%{byte:02x}" for byte in (line + FORGED).encode())
    for path in (f"/v1/sessions/{CANARY}{quoted}", f"/{quoted}", f"/v1/me?x={quoted}"):
        assert (await client.http.get(path)).status_code < 500
    await client.call("GET", "/healthz", 200)


async def test_a_request_id_comes_back_only_if_it_is_one(client: Client) -> None:
    for wanted in ("abc-1.2_3", "A" * 64):
        response = await client.http.get("/v1/me", headers={"X-Request-ID": wanted})
        assert response.headers["x-request-id"] == wanted
    for wanted in ("a b", "A" * 65, "é", "a;b", "<x>"):
        sent = {"X-Request-ID": wanted.encode()}
        response = await client.http.get("/v1/me", headers=sent)  # type: ignore[arg-type]
        assert response.headers["x-request-id"].startswith("req_")


async def test_a_worker_that_stops_logs_no_words_either(stack: Stack, client: Client) -> None:
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await stack.admin("POST", "pace", {"tokens_per_second": 1, "text": word})
    session = await client.open_session()
    run = (await client.post(session, f"Explain 2x = 6 {word} {CANARY}"))["run"]["id"]

    async def is_active() -> bool:
        return bool((await client.run(session, run))["status"] == "in_progress")

    await until(is_active)
    worker = await stack.start_worker(WORKER_DRAIN_S="0")
    await client.call("POST", f"/v1/sessions/{session}/runs/{run}/cancel", 202)
    await client.ended(session, run)
    worker.popen.terminate()
    assert await worker.exit(within=20) == 0
