"""The rules that decide which requests meet a fault."""

from typing import Any

import pytest

from tests.contract.sandbox.conftest import MODEL, Sandbox

BODY: dict[str, Any] = {"model": MODEL, "input": "one two three", "stream": True}


async def test_rules_fire_for_the_chosen_call_text_and_times(sandbox: Sandbox) -> None:
    rule = {"path": "/v1/conv*", "nth": 2, "times": 2, "action": {"type": "status", "status": 500}}
    await sandbox.admin("POST", "faults", rule)
    url = f"{sandbox.url}/v1/conversations"
    found = [(await sandbox.http.post(url)).status_code for _ in range(5)]
    assert found == [200, 500, 500, 200, 200]
    assert (await sandbox.http.get(f"{sandbox.url}/v1/models")).status_code == 200


async def test_a_rule_may_want_a_method_or_a_stream(sandbox: Sandbox) -> None:
    rule = {"action": {"type": "status", "status": 503}, "times": None}
    await sandbox.admin("POST", "faults", {**rule, "method": "get"})
    await sandbox.admin("POST", "faults", {**rule, "stream": True})
    url = f"{sandbox.url}/v1/conversations"
    made = await sandbox.http.post(url)
    assert made.status_code == 200
    assert (await sandbox.http.get(f"{url}/{made.json()['id']}")).status_code == 503
    assert (await sandbox.read(**BODY)).status == 503
    assert (await sandbox.read(**{**BODY, "stream": False})).status == 200


async def test_rules_without_an_end_go_on_until_they_are_cleared(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "status", "status": 503}, times=None, text="unlucky")
    for _ in range(3):
        assert (await sandbox.read(model=MODEL, input="an unlucky one", stream=True)).status == 503
        assert (await sandbox.read(model=MODEL, input="a lucky one", stream=True)).status == 200
    listed = await sandbox.admin("GET", "faults")
    assert [(rule["matched"], rule["fired"]) for rule in listed["rules"]] == [(3, 3)]
    await sandbox.admin("DELETE", "faults")
    assert (await sandbox.read(model=MODEL, input="an unlucky one", stream=True)).status == 200


async def test_a_list_of_rules_is_a_sequence_of_troubles(sandbox: Sandbox) -> None:
    troubles = [
        {"path": "/v1/responses", "action": {"type": "status", "status": n}}
        for n in (429, 500, 503)
    ]
    await sandbox.admin("POST", "faults", troubles)
    assert [(await sandbox.read(**BODY)).status for _ in range(4)] == [429, 500, 503, 200]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        [],
        {"action": {"type": "earthquake"}},
        {"action": {"type": "status", "status": "many"}},
        {"action": {"type": "status"}, "pth": "/v1/*"},
        {"action": {"type": "stall", "seconds": -1}},
        {"action": {"type": "html"}, "nth": 0},
    ],
)
async def test_a_rule_that_means_nothing_is_refused(sandbox: Sandbox, rule: Any) -> None:
    answer = await sandbox.http.post(f"{sandbox.url}/sandbox/faults", json=rule)
    if rule == []:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 400
    assert (await sandbox.admin("GET", "faults"))["rules"] == []


async def test_every_question_is_in_the_ledger_with_how_it_was_met(sandbox: Sandbox) -> None:
    troubles: list[dict[str, Any]] = [
        {"type": "status", "status": 400, "code": "conversation_locked"},
        {"type": "reset"},
        {"type": "status", "status": 500, "message": "Not today.", "after_work": True},
    ]
    rules = [{"path": "/v1/responses", "action": action} for action in troubles]
    await sandbox.admin("POST", "faults", rules)
    asked = [
        "first",
        [{"role": "user", "content": "before"}, {"role": "user", "content": "second"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "third"}]}],
        "fourth",
    ]
    for question in asked:
        await sandbox.read(model=MODEL, input=question, stream=True)
    wanted = [
        {"text": "first", "status": 400, "refusal": "conversation_locked"},
        {"text": "second", "status": None, "refusal": None},
        {"text": "third", "status": 500, "refusal": "Not today."},
        {"text": "fourth", "status": 200, "refusal": None},
    ]
    assert (await sandbox.admin("GET", "posts"))["data"] == wanted
    await sandbox.admin("POST", "reset", {"keep": ["posts"]})
    assert (await sandbox.admin("GET", "posts"))["data"] == wanted
    await sandbox.admin("POST", "reset")
    assert (await sandbox.admin("GET", "posts"))["data"] == []
