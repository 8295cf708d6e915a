"""Tutors: written with a scope, versioned, archived, and each tenant's own."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.stack import Client, Stack, until

SCOPE = "assistants:write"
PUBLIC_KEYS = {
    "id",
    "object",
    "name",
    "description",
    "model",
    "temperature",
    "top_p",
    "response_format",
    "metadata",
    "version",
    "created_at",
    "updated_at",
}
PRIVATE_KEYS = {"instructions", "tools", "tool_resources"}
KEYS = PUBLIC_KEYS | PRIVATE_KEYS
TOOL = {"type": "function", "function": {"name": "plot", "parameters": {"type": "object"}}}
FULL: dict[str, Any] = {
    "name": "Algebra Tutor",
    "description": "Knows\nalgebra.",
    "instructions": "Answer as a canary would.",
    "model": "model-one",
    "tools": [],
    "tool_resources": {"code_interpreter": {"file_ids": []}},
    "temperature": 0.5,
    "top_p": 1,
    "response_format": "auto",
    "metadata": {"k": "v"},
}


class Tenant:
    """A writer and a student of a tenant that nobody else is in."""

    def __init__(self, stack: Stack) -> None:
        self.name = f"tenant-{uuid.uuid4().hex[:8]}"
        self.stack = stack
        self.writer = stack.client(scope=SCOPE, tenant=self.name)
        self.student = stack.client(at=1, tenant=self.name)

    async def make(self, **fields: Any) -> Any:
        body = {"model": "model-one"} | fields
        return await self.writer.call("POST", "/v1/assistants", 201, json=body)


@pytest.fixture
def tenant(shared: Stack) -> Tenant:
    return Tenant(shared)


async def test_there_is_a_math_tutor_from_the_start(shared: Stack) -> None:
    for client in (shared.client(), shared.client(tenant=f"t-{uuid.uuid4().hex}")):
        listed = await client.call("GET", "/v1/assistants", 200, params={"limit": 100})
        (found,) = [item for item in listed["data"] if item["id"] == "asst_default"]
        assert found["name"] == "Math Tutor"
        assert found["model"] == "test-model"
        assert found["version"] == 1
        assert set(found) == PUBLIC_KEYS
        assert await client.call("GET", "/v1/assistants/asst_default", 200) == found
    writer = shared.client(scope=SCOPE, tenant="any")
    whole = await writer.call("GET", "/v1/assistants/asst_default", 200)
    assert set(whole) == KEYS
    assert "math tutor" in whole["instructions"].lower()


async def test_a_tutor_is_made_as_it_was_described(tenant: Tenant) -> None:
    response = await tenant.writer.http.post("/v1/assistants", json=FULL)
    assert response.status_code == 201
    made = response.json()
    assert set(made) == KEYS
    assert response.headers["location"] == f"/v1/assistants/{made['id']}"
    assert made["id"].startswith("asst_")
    assert (made["object"], made["version"]) == ("assistant", 1)
    assert {name: made[name] for name in FULL} == FULL
    assert made["created_at"] == made["updated_at"]
    assert await tenant.writer.call("GET", response.headers["location"], 200) == made


async def test_a_tutor_needs_a_model_and_nothing_else(tenant: Tenant) -> None:
    made = await tenant.make()
    assert {name: made[name] for name in FULL} == {
        "name": None,
        "description": None,
        "instructions": None,
        "model": "model-one",
        "tools": [],
        "tool_resources": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
        "metadata": {},
    }
    await tenant.writer.call("POST", "/v1/assistants", 422, json={"name": "x"})


async def test_function_tools_are_kept_as_they_were_given(tenant: Tenant) -> None:
    made = await tenant.make(tools=[TOOL])
    found = await tenant.writer.call("GET", f"/v1/assistants/{made['id']}", 200)
    assert found["tools"] == made["tools"]
    assert found["tools"][0]["type"] == "function"
    function = found["tools"][0]["function"]
    assert {name: function[name] for name in ("name", "parameters")} == TOOL["function"]


async def test_without_the_scope_a_tutor_is_read_without_its_prompt_and_not_written(
    tenant: Tenant,
) -> None:
    made = await tenant.make(
        instructions="canary", tools=[TOOL], tool_resources={"code_interpreter": {"file_ids": []}}
    )
    path = f"/v1/assistants/{made['id']}"
    found = await tenant.student.call("GET", path, 200)
    assert found == {name: made[name] for name in PUBLIC_KEYS}
    listed = await tenant.student.call("GET", "/v1/assistants", 200)
    assert found in listed["data"]
    assert "canary" not in json.dumps(listed)
    calls = [
        ("POST", "/v1/assistants", {"model": "m"}),
        ("PATCH", path, {"name": "x"}),
        ("DELETE", path, None),
    ]
    for scope in ("", "assistants:read", "assistants:writer", "xassistants:write", "assistants"):
        client = tenant.stack.client(scope=scope, tenant=tenant.name)
        for method, where, body in calls:
            refused = await client.call(method, where, 403, json=body)
            assert refused["code"] == "forbidden"
    assert await tenant.writer.call("GET", path, 200) == made


async def test_a_change_is_the_next_version_and_leaves_the_rest(tenant: Tenant) -> None:
    made = await tenant.make(**(FULL | {"tools": [TOOL]}))
    path = f"/v1/assistants/{made['id']}"
    changes: list[dict[str, Any]] = [
        {"name": "Geometry Tutor"},
        {"name": None, "description": None, "instructions": None},
        {"metadata": {}},
        {"tools": [], "temperature": 0},
        {"response_format": {"type": "json_object"}},
        {},
    ]
    expected = made
    for version, change in enumerate(changes, start=2):
        changed = await tenant.writer.call("PATCH", path, 200, json=change)
        assert changed["updated_at"] > expected["updated_at"]
        expected |= change | {"version": version, "updated_at": changed["updated_at"]}
        assert changed == expected
        assert await tenant.writer.call("GET", path, 200) == expected


async def test_changes_that_come_at_once_are_each_a_version(tenant: Tenant) -> None:
    made = await tenant.make()
    path = f"/v1/assistants/{made['id']}"
    there = tenant.stack.client(at=1, scope=SCOPE, tenant=tenant.name)
    changes = [
        (tenant.writer, there)[n % 2].call("PATCH", path, 200, json={"metadata": {"n": str(n)}})
        for n in range(10)
    ]
    versions = [changed["version"] for changed in await asyncio.gather(*changes)]
    assert sorted(versions) == list(range(2, 12))


async def test_a_run_keeps_the_version_that_it_used(tenant: Tenant) -> None:
    stack, student = tenant.stack, tenant.student
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await stack.admin("POST", "pace", {"tokens_per_second": 20, "text": word})
    # Rules that never fire count what the upstream is asked.
    told = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in ("m1", "i1", "m2", "i2")}
    for text in told.values():
        rule = {"id": text, "path": "/v1/responses", "text": text, "nth": 10**6}
        await stack.admin("POST", "faults", rule | {"action": {"type": "html"}})
    made = await tenant.make(model=told["m1"], instructions=told["i1"])
    path = f"/v1/assistants/{made['id']}"
    session = await student.open_session(assistant_id=made["id"])
    active = (await student.post(session, f"Explain 2x = 6 {word}"))["run"]["id"]
    queued = await student.post(session, "Solve 3x = 9", on_active_run="enqueue")
    change = {"model": told["m2"], "instructions": told["i2"]}
    await tenant.writer.call("PATCH", path, 200, json=change)
    later = await student.post(session, "Solve 3x = 12", on_active_run="enqueue")
    cancel = f"/v1/sessions/{session}/runs/{active}/cancel"
    await student.call("POST", cancel, 202)
    for run_id, version in ((active, 1), (queued["run"]["id"], 1), (later["run"]["id"], 2)):
        run = await student.ended(session, run_id)
        assert run["status"] == ("cancelled" if run_id == active else "completed")
        assert (run["assistant_id"], run["model"]) == (made["id"], told[f"m{version}"])
        kept = await stack.fetchval("SELECT assistant_version FROM runs WHERE id = $1", run_id)
        assert kept == version
    rules = {rule["id"]: rule for rule in (await stack.admin("GET", "faults"))["rules"]}
    asked = {name: rules[text]["matched"] for name, text in told.items()}
    # The first run may have been cancelled before the upstream was asked.
    assert asked["m1"] == asked["i1"] in {1, 2}
    assert asked["m2"] == asked["i2"] == 1


async def test_a_tutor_in_use_is_archived_and_its_sessions_go_on(tenant: Tenant) -> None:
    made = await tenant.make(model="model-one")
    path = f"/v1/assistants/{made['id']}"
    session = await tenant.student.open_session(assistant_id=made["id"])
    await tenant.writer.call("DELETE", path, 204)
    for client in (tenant.writer, tenant.student):
        await client.call("GET", path, 404)
        listed = await client.call("GET", "/v1/assistants", 200)
        assert [item["id"] for item in listed["data"]] == ["asst_default"]
    await tenant.writer.call("PATCH", path, 404, json={"name": "x"})
    await tenant.writer.call("DELETE", path, 404)
    body = {"assistant_id": made["id"]}
    await tenant.student.call("POST", "/v1/sessions", 404, json=body)
    run, answer = await tenant.student.ask(session, "Solve 2x = 6")
    assert (run["assistant_id"], run["model"]) == (made["id"], "model-one")
    assert "3" in answer
    archived = "SELECT archived_at IS NOT NULL FROM assistants WHERE id = $1"
    assert await tenant.stack.fetchval(archived, made["id"]) is True


async def test_a_tutor_that_was_never_used_is_deleted(tenant: Tenant) -> None:
    made = await tenant.make()
    await tenant.writer.call("DELETE", f"/v1/assistants/{made['id']}", 204)
    kept = "SELECT count(*) FROM assistant_versions WHERE assistant_id = $1"
    assert await tenant.stack.fetchval(kept, made["id"]) == 0


async def test_the_default_tutor_cannot_be_deleted(tenant: Tenant) -> None:
    for claims in ({"tenant": tenant.name}, {}):
        client = tenant.stack.client(scope=SCOPE, **claims)
        refused = await client.call("DELETE", "/v1/assistants/asst_default", 409)
        assert refused["code"] == "default_assistant"
    await tenant.student.call("GET", "/v1/assistants/asst_default", 200)


async def test_the_default_tutor_is_not_a_tenant_s_to_change(tenant: Tenant) -> None:
    path = "/v1/assistants/asst_default"
    before = await tenant.writer.call("GET", path, 200)
    await tenant.writer.call("PATCH", path, 403, json={"name": "Mine"})
    assert await tenant.writer.call("GET", path, 200) == before


async def test_tenants_see_and_use_their_own_tutors_only(tenant: Tenant) -> None:
    made = await tenant.make()
    path = f"/v1/assistants/{made['id']}"
    stack = tenant.stack
    strangers: list[Client] = [
        stack.client(scope=SCOPE, tenant=f"{tenant.name}2"),
        stack.client(scope=SCOPE, tenant=tenant.name.upper()),
        stack.client(scope=SCOPE),
        stack.client(user=tenant.writer.user, scope=SCOPE),
    ]
    for stranger in strangers:
        await stranger.call("GET", path, 404)
        await stranger.call("PATCH", path, 404, json={"name": "x"})
        await stranger.call("DELETE", path, 404)
        await stranger.call("POST", "/v1/sessions", 404, json={"assistant_id": made["id"]})
        for cursor in ("after", "before"):
            await stranger.call("GET", "/v1/assistants", 404, params={cursor: made["id"]})
        listed = await stranger.call("GET", "/v1/assistants", 200, params={"limit": 100})
        assert made["id"] not in json.dumps(listed)
    assert await tenant.writer.call("GET", path, 200) == made


async def test_limits_are_counted_in_characters(tenant: Tenant) -> None:
    most: dict[str, Any] = {
        "name": "\N{GRINNING FACE}" * 256,
        "description": "가" * 512,
        "instructions": "가" * 256_000,
        "tools": [TOOL] * 128,
        "metadata": {f"{n:02}" + "k" * 62: "가" * 512 for n in range(16)},
    }
    made = await tenant.make(**most)
    assert {name: made[name] for name in most if name != "tools"} == {
        name: value for name, value in most.items() if name != "tools"
    }
    assert len(made["tools"]) == 128
    more: dict[str, Any] = {
        "name": "x" * 257,
        "description": "x" * 513,
        "instructions": "x" * 256_001,
        "tools": [TOOL] * 129,
        "metadata": {str(n): "" for n in range(17)},
    }
    for name, value in more.items():
        for method, path in (("POST", ""), ("PATCH", f"/{made['id']}")):
            body = {"model": "m", name: value}
            refused = await tenant.writer.call(method, f"/v1/assistants{path}", 422, json=body)
            assert refused["errors"][0]["loc"][:2] == ["body", name]


async def test_opening_a_session_with_a_tutor_that_goes_at_that_moment_is_no_fault_of_ours(
    tenant: Tenant,
) -> None:
    """Either the session is there and the tutor archived, or there is no such tutor."""
    there = tenant.stack.client(at=1, scope=SCOPE, tenant=tenant.name)

    async def race() -> None:
        made = await tenant.make()
        opening = tenant.student.http.post("/v1/sessions", json={"assistant_id": made["id"]})
        deleting = there.http.delete(f"/v1/assistants/{made['id']}")
        opened, deleted = await asyncio.gather(opening, deleting)
        assert deleted.status_code == 204
        assert opened.status_code in {201, 404}, opened.text

    await asyncio.gather(*(race() for _ in range(20)))

    async def is_quiet() -> bool:
        return "Traceback" not in tenant.stack.logs()

    await until(is_quiet, within=1)
