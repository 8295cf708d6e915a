"""The OpenAPI document says what is so: real answers match it, to the key."""

import copy
import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.main import create_app
from app.settings import Settings
from tests.integration.test_tools import PLOT, PLOTTED, opened, waiting
from tests.stack import ROOT, Client, Stack, blocks_of

METHODS = {"get", "post", "patch", "delete", "put"}
PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
BYTES = "application/octet-stream"
PRIVATE = {"instructions", "tools", "tool_resources"}
DOCUMENT: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if method in METHODS
}


def check(value: Any, model: Any, components: Any) -> None:
    """Say briefly what is wrong: a whole document in a failure helps nobody."""
    found = Draft202012Validator(model | {"components": components}).iter_errors(value)
    assert [f"{error.json_path}: {error.message[:300]}" for error in found] == []


def examples_of(content: Any) -> list[Any]:
    """The examples of a body: its own, or those of the model that it refers to."""
    if "example" in content:
        return [content["example"]]
    if "examples" in content:
        return [found["value"] for found in content["examples"].values()]
    found = content["schema"]
    if "$ref" in found:
        found = DOCUMENT["components"]["schemas"][found["$ref"].rpartition("/")[2]]
    return list(found.get("examples", []))


def bodies() -> Iterator[tuple[str, Any]]:
    """Every JSON body that is documented, with where it is."""
    for name, operation in OPERATIONS.items():
        if "requestBody" in operation:
            for media_type, content in operation["requestBody"]["content"].items():
                if media_type == "application/json":
                    yield f"{name} takes", content
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                if media_type == "application/json":
                    yield f"{name} {status}", content


BODIES = dict(bodies())


def strict(document: Any) -> Any:
    """The same models, allowing no other key and missing none."""
    components = copy.deepcopy(document)
    for name, model in components["schemas"].items():
        if model.get("type") == "object" and "properties" in model:
            optional = PRIVATE if name == "AssistantOut" else set()
            optional |= {"errors", "active_run_id"} if name == "Problem" else set()
            optional |= {"annotations", "text", "file_id"} if name == "PartOut" else set()
            model["additionalProperties"] = False
            model["required"] = sorted(set(model["properties"]) - optional)
    return components


STRICT = strict(DOCUMENT["components"])


async def test_the_document_is_served_and_is_the_one_in_the_repository(shared: Stack) -> None:
    served = await shared.client().call("GET", "/openapi.json", 200)
    assert served == json.loads((ROOT / "openapi.json").read_text())


async def test_the_documents_for_people_are_served(shared: Stack) -> None:
    response = await shared.client().http.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in response.text


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_explained(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"].endswith(".")
    assert len(operation["tags"]) == 1
    assert operation["operationId"]
    for parameter in operation.get("parameters", []):
        assert "schema" in parameter


@pytest.mark.parametrize("where", BODIES)
def test_every_body_has_an_example_that_is_valid(where: str) -> None:
    content = BODIES[where]
    found = examples_of(content)
    assert found, where
    for example in found:
        components = DOCUMENT["components"] if "takes" in where else STRICT
        check(example, content["schema"], components)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_success_is_documented_with_its_body(name: str) -> None:
    successes = {
        status: response
        for status, response in OPERATIONS[name]["responses"].items()
        if status.startswith("2")
    }
    assert successes
    for status, response in successes.items():
        assert response["description"]
        contents = response.get("content", {})
        assert bool(contents) is (status != "204")
        assert set(contents) <= {"application/json", "text/event-stream", BYTES}
        for media_type, content in contents.items():
            assert media_type == BYTES or examples_of(content)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_refusal_is_documented_as_a_problem(name: str) -> None:
    operation = OPERATIONS[name]
    refusals = {
        status: response
        for status, response in operation["responses"].items()
        if not status.startswith("2")
    }
    for status, response in refusals.items():
        assert set(response["content"]) == {"application/problem+json"}
        content = response["content"]["application/problem+json"]
        assert content["schema"] == PROBLEM["schema"]
        check(content["example"], PROBLEM["schema"], STRICT)
        # Its own, and not any problem's.
        assert content["example"]["status"] == int(status)
    path = name.partition(" ")[2]
    if path.startswith("/v1"):
        assert "401" in refusals
        assert ("404" in refusals) or "{" not in path
        assert ("422" in refusals) or not operation.get("parameters")
    if "requestBody" in operation:
        assert {"400", "408", "413", "422"} <= set(refusals)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere() -> None:
    models = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) <= models


def test_problems_have_an_example_and_nothing_else_describes_an_error() -> None:
    models = DOCUMENT["components"]["schemas"]
    (example,) = models["Problem"]["examples"]
    check(example, PROBLEM["schema"], STRICT)
    assert not [name for name in models if name.startswith(("HTTPValidation", "ValidationError"))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_needs_a_token_says_so(name: str) -> None:
    path = name.partition(" ")[2]
    assert bool(OPERATIONS[name].get("security")) is path.startswith("/v1")


# ---------------------------------------------------------------- real answers


class Recorder:
    """Calls operations, and checks each answer against what is documented for it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: set[tuple[str, str]] = set()

    async def call(self, method: str, template: str, ids: Any, expect: int, **more: Any) -> Any:
        path = template.format(**ids)
        response = await self.client.http.request(method, path, **more)
        assert response.status_code == expect, (template, response.text)
        name, status = f"{method} {template}", str(expect)
        documented = OPERATIONS[name]["responses"][status]
        self.seen.add((name, status))
        if not response.content:
            assert "content" not in documented
            return None
        media_type = response.headers["content-type"].partition(";")[0]
        content = documented["content"][media_type]
        if media_type == "text/event-stream":
            return response.text
        found = response.json()
        check(found, content["schema"], STRICT)
        check_instants(found)
        return found


def check_instants(value: Any) -> None:
    """What is named like an instant is one, in UTC."""
    if isinstance(value, list):
        for item in value:
            check_instants(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if re.fullmatch(r"\w+_at", name) and item is not None:
                assert datetime.fromisoformat(item).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
                assert item.endswith("Z")
            check_instants(item)


def succeeded(recorder: Recorder) -> set[str]:
    return {name for name, status in recorder.seen if status.startswith("2")}


async def test_real_answers_about_tutors_are_what_is_documented(shared: Stack) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    recorder = Recorder(shared.client(scope="assistants:write", tenant=tenant))
    reader = Recorder(shared.client(tenant=tenant))
    call, none = recorder.call, dict[str, str]()
    tutors, tutor = "/v1/assistants", "/v1/assistants/{assistant_id}"
    tool = {"type": "function", "function": {"name": "f"}}
    for body in (
        {"model": "m"},
        {"model": "m", "tools": [tool], "response_format": {"type": "json_object"}},
    ):
        made = await call("POST", tutors, none, 201, json=body)
    ids = {"assistant_id": made["id"]}
    await call("GET", tutors, none, 200)
    await call("GET", tutor, ids, 200)
    await call("PATCH", tutor, ids, 200, json={"name": "x"})
    await reader.call("GET", tutor, ids, 200)
    await reader.call("GET", tutors, none, 200)
    await reader.call("PATCH", tutor, ids, 403, json={"name": "x"})
    await call("DELETE", tutor, ids, 204)
    await call("DELETE", tutor, {"assistant_id": "asst_default"}, 409)
    assert succeeded(recorder) == {name for name in OPERATIONS if tutors in name}


async def test_real_answers_about_files_are_what_is_documented(shared: Stack) -> None:
    recorder = Recorder(shared.client())
    call, none, ids = recorder.call, dict[str, str](), dict[str, str]()
    files, file = "/v1/files", "/v1/files/{file_id}"
    sent = await call("POST", files, none, 201, files={"file": ("q.txt", b"2x = 6")})
    ids["file_id"] = sent["id"]
    await call("POST", files, none, 422, files={"file": ("q.png", b"2x = 6")})
    await call("GET", files, none, 200)
    await call("GET", file, ids, 200)
    await call("GET", f"{file}/content", ids, 409)
    await call("DELETE", file, ids, 204)
    await call("DELETE", file, ids, 404)
    # As OpenAI, the sandbox gives back nothing that it was sent.
    unseen = {f"GET {file}/content"}
    assert succeeded(recorder) == {name for name in OPERATIONS if files in name} - unseen


async def test_other_real_answers_are_what_is_documented(shared: Stack) -> None:
    recorder = Recorder(shared.client())
    call, client, none = recorder.call, recorder.client, dict[str, str]()
    for path in ("/healthz", "/readyz", "/v1/me"):
        await call("GET", path, none, 200)
    sessions, session = "/v1/sessions", "/v1/sessions/{session_id}"
    messages, runs = f"{session}/messages", f"{session}/runs"
    opened = await call("POST", sessions, none, 201, json={"title": "t", "metadata": {"k": "v"}})
    ids = {"session_id": opened["id"]}
    await call("POST", runs, ids, 409, json={})
    await call("POST", messages, ids, 202, json={"content": "Hello.", "run": False})
    posted = await call("POST", messages, ids, 202, json={"content": "Solve 2x = 6"})
    ids["run_id"], ids["message_id"] = posted["run"]["id"], posted["message"]["id"]
    await client.ended(opened["id"], ids["run_id"])
    run = await call("GET", f"{runs}/{{run_id}}", ids, 200, params={"wait": 1})
    await call("GET", f"{messages}/{{message_id}}", ids, 200)
    ids["message_id"] = run["output_message_id"]
    await call("GET", f"{messages}/{{message_id}}", ids, 200)
    await call("GET", messages, ids, 200)
    await call("POST", f"{runs}/{{run_id}}/cancel", ids, 409)
    again = await call("POST", runs, ids, 202, json={})
    await client.ended(opened["id"], again["id"])
    await call("GET", runs, ids, 200)
    stream = {"Accept": "text/event-stream"}
    text = await call("POST", messages, ids, 200, json={"content": "Hi."}, headers=stream)
    assert blocks_of(text)[-1].event == "done"
    told = await call("GET", f"{runs}/{{run_id}}/events", ids, 200)
    last = {"Last-Event-ID": blocks_of(told)[-2].id}
    await call("GET", f"{runs}/{{run_id}}/events", ids, 204, headers=last)
    await call("POST", f"{session}/stream_tickets", ids, 201)
    word = f"slowly{uuid.uuid4().hex[:8]}"
    await shared.admin("POST", "pace", {"tokens_per_second": 2, "text": word})
    posted = await call("POST", messages, ids, 202, json={"content": f"Explain 2x = 6 {word}"})
    await call("POST", messages, ids, 409, json={"content": "x"})
    await call("POST", f"{runs}/{{run_id}}/cancel", ids | {"run_id": posted["run"]["id"]}, 202)
    await client.ended(opened["id"], posted["run"]["id"])
    await call("GET", messages, ids, 200)
    await call("GET", session, ids, 200)
    await call("GET", f"{session}/events", ids, 400, params={"after": "x"})
    await call("PATCH", session, ids, 200, json={"status": "ended"})
    await call("GET", sessions, none, 200)
    await call("GET", sessions, none, 422, params={"limit": 0})
    await call("DELETE", session, ids, 204)
    await call("GET", session, ids, 404)

    # A session's stream ends with its reader: that it is one was seen elsewhere.
    endless = f"GET {session}/events"
    elsewhere = ("/assistants", "/files", "/tool_outputs")
    others = {name for name in OPERATIONS if not any(part in name for part in elsewhere)}
    assert succeeded(recorder) == others - {endless}


async def test_real_answers_about_functions_are_what_is_documented(shared: Stack) -> None:
    client, session = await opened(shared, PLOT)
    run = await waiting(client, session, PLOTTED)
    recorder = Recorder(client)
    path = "/v1/sessions/{session_id}/runs/{run_id}"
    ids = {"session_id": session, "run_id": run["id"]}
    await recorder.call("GET", path, ids, 200)
    for body, status in (
        ({}, 422),
        ({"tool_outputs": [{"tool_call_id": "x", "output": ""}]}, 422),
    ):
        await recorder.call("POST", f"{path}/tool_outputs", ids, status, json=body)
    (call,) = run["required_action"]["tool_calls"]
    given = {"tool_outputs": [{"tool_call_id": call["id"], "output": "Drawn."}]}
    await recorder.call("POST", f"{path}/tool_outputs", ids, 202, json=given)
    await recorder.call("POST", f"{path}/tool_outputs", ids, 409, json=given)
    await client.ended(session, run["id"])
    await recorder.call("GET", path, ids, 200)
    assert succeeded(recorder) == {f"GET {path}", f"POST {path}/tool_outputs"}


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("POST")])
async def test_the_examples_of_bodies_are_taken(shared: Stack, name: str) -> None:
    """What the documents offer to try does work."""
    operation = OPERATIONS[name]
    if "requestBody" not in operation:
        return
    client, session = await opened(shared, PLOT)
    if name.endswith("tool_outputs"):
        run = await waiting(client, session, PLOTTED)
        path = name.partition(" ")[2].format(session_id=session, run_id=run["id"])
        for example in examples_of(operation["requestBody"]["content"]["application/json"]):
            # They are of another run's call: that is all that is wrong with them.
            refused = await client.call("POST", path, 422, json=example)
            assert refused["code"] == "tool_outputs_mismatch"
        return
    run_id = ""
    if name.endswith("cancel"):
        run_id = (await waiting(client, session, PLOTTED))["id"]
    else:
        await client.post(session, "Hello.", run=False)
    path = name.partition(" ")[2].format(session_id=session, run_id=run_id)
    if "application/json" not in operation["requestBody"]["content"]:
        return
    file = await client.http.post("/v1/files", files={"file": ("x.png", b"\x89PNG\r\n\x1a\n")})
    for example in examples_of(operation["requestBody"]["content"]["application/json"]):
        for part in example.get("content", "") if isinstance(example, dict) else ():
            if isinstance(part, dict) and "file_id" in part:
                part["file_id"] = file.json()["id"]
        response = await client.http.post(path, json=example)
        assert response.is_success, response.text
