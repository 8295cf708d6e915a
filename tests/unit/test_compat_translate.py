"""Translation where no upstream leads it: parts, withdrawals, actions, comments."""

import json
from typing import Any

from openai._streaming import SSEDecoder

from app.api.compat.translate import Translator
from app.domain.models import AssistantConfig
from tests.stack import blocks_of

AT = "2026-11-25T09:00:00.000000Z"
CONFIG = AssistantConfig(name=None, description=None, instructions="Kind.", model="m")


def run(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "run_1", "session_id": "sess_1", "assistant_id": "asst_1", "model": "m",
        "status": status, "required_action": None, "last_error": None, "usage": None,
        "incomplete_details": None, "metadata": {}, "created_at": AT, "started_at": AT,
        "expires_at": None, "ended_at": AT, **more,
    }  # fmt: skip


def message(status: str, *texts: str) -> dict[str, Any]:
    return {
        "id": "msg_1", "session_id": "sess_1", "run_id": "run_1", "role": "assistant",
        "status": status, "metadata": {}, "created_at": AT, "completed_at": AT,
        "content": [{"type": "text", "text": text, "annotations": []} for text in texts],
    }  # fmt: skip


def block(seq: int, name: str, **data: Any) -> bytes:
    return f"id: {seq}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def delta(seq: int, part: int, text: str) -> bytes:
    return block(seq, "message.delta", part=part, text=text, message_id="msg_1")


BEGUN = block(1, "run.queued", run=run("queued", started_at=None)) + block(
    2, "run.in_progress", run=run("in_progress")
)
OPENED = block(3, "message.created", message=message("in_progress"))


def test_comments_and_retry_are_followed_by_no_empty_line() -> None:
    translator = Translator(CONFIG)
    assert translator.feed(b"retry: 1500\n\n") == b"retry: 1500\n"
    assert translator.feed(b": keep-alive\n\n") == b": keep-alive\n"


def test_a_keep_alive_after_an_id_is_no_event_to_the_sdk() -> None:
    translator = Translator(CONFIG)
    pieces = [b"retry: 1500\n\n", BEGUN, b": keep-alive\n\n", OPENED, b": keep-alive\n\n"]
    sent = [translator.feed(piece) for piece in [*pieces, b"event: done\ndata: {}\n\n"]]
    found = list(SSEDecoder().iter_bytes(iter(sent)))
    assert [event.event for event in found] == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "done",
    ]
    assert all(event.data for event in found)


def test_what_is_withdrawn_opens_the_message_again_with_what_is_kept() -> None:
    translator = Translator(CONFIG)
    translator.feed(BEGUN + OPENED + delta(4, 0, "one") + delta(5, 1, "two"))
    text = translator.feed(
        block(6, "message.reset", message_id="msg_1", from_part=1) + delta(7, 1, "three")
    )
    created, in_progress, added = blocks_of(text.decode())
    assert (created.event, in_progress.event) == (
        "thread.message.created",
        "thread.message.in_progress",
    )
    kept = json.loads(created.data)["content"]
    assert [part["text"]["value"] for part in kept] == ["one"]
    (content,) = json.loads(added.data)["delta"]["content"]
    assert content == {
        "index": 1,
        "type": "text",
        "text": {"value": "three", "annotations": []},
    }


def test_a_stream_ends_where_an_action_is_required() -> None:
    translator = Translator(CONFIG)
    action = {
        "type": "submit_tool_outputs",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }
    waiting = run("requires_action", required_action=action)
    text = translator.feed(
        BEGUN
        + block(3, "run.requires_action", run=waiting)
        + block(4, "run.in_progress", run=run("in_progress"))
    )
    found = blocks_of(text.decode())
    assert [b.event for b in found][-2:] == ["thread.run.requires_action", "done"]
    required = json.loads(found[-2].data)["required_action"]
    assert required["submit_tool_outputs"]["tool_calls"] == action["tool_calls"]
    assert translator.is_over


def test_a_stream_that_is_cut_off_says_so_unless_it_had_ended() -> None:
    translator = Translator(CONFIG)
    translator.feed(BEGUN)
    (found,) = blocks_of(translator.cut_off().decode())
    assert (found.event, found.id) == ("error", None)
    assert json.loads(found.data)["error"]["code"] == "stream_cut_off"
    translator.feed(b'event: done\ndata: {"type":"done"}\n\n')
    assert translator.cut_off() == b""


def test_events_up_to_the_cursor_are_read_but_not_sent() -> None:
    log = BEGUN + OPENED + delta(4, 0, "one") + delta(5, 0, "two")
    whole = blocks_of(Translator(CONFIG).feed(log).decode())
    assert [b.id for b in whole] == [
        "1.0", "1.1", "2.0", "3.0", "3.1", "3.2", "3.3", "4.0", "5.0",
    ]  # fmt: skip
    rest = blocks_of(Translator(CONFIG, after=(3, 1)).feed(log).decode())
    assert [b.raw for b in rest] == [b.raw for b in whole[5:]]


def step(seq: int, status: str, kind: str = "function", **details: Any) -> bytes:
    body = {"id": "step_1", "kind": kind, "status": status, "details": details}
    return block(seq, "run.step", run_id="run_1", step=body, at=AT)


def asked(arguments: str, output: str | None = None, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "name": "plot", "arguments": arguments, "output": output}


def test_a_step_that_calls_functions_grows_by_what_is_new() -> None:
    translator = Translator(CONFIG)
    translator.feed(BEGUN)
    text = translator.feed(
        step(3, "in_progress", calls=[asked("")])
        + step(4, "in_progress", calls=[asked('{"a": 1}')])
        + step(5, "in_progress", calls=[asked('{"a": 1}'), asked("{}", call_id="call_2")])
        + step(
            6, "completed", calls=[asked('{"a": 1}', "one"), asked("{}", "two", call_id="call_2")]
        )
    )
    found = [
        (b.event.removeprefix("thread.run.step."), json.loads(b.data))
        for b in blocks_of(text.decode())
    ]
    assert [name for name, _ in found] == [
        "created", "in_progress", "delta", "delta", "delta", "completed",
    ]  # fmt: skip
    added = [
        data["delta"]["step_details"]["tool_calls"] for name, data in found if name == "delta"
    ]
    assert added == [
        [
            {
                "index": 0,
                "id": "call_1",
                "type": "function",
                "function": {"name": "plot", "arguments": ""},
            }
        ],
        [{"index": 0, "type": "function", "function": {"arguments": '{"a": 1}'}}],
        [
            {
                "index": 1,
                "id": "call_2",
                "type": "function",
                "function": {"name": "plot", "arguments": "{}"},
            }
        ],
    ]
    begun, ended = found[0][1], found[-1][1]
    assert (begun["type"], begun["step_details"]["tool_calls"]) == ("tool_calls", [])
    assert begun["completed_at"] is None
    assert ended["completed_at"] == begun["created_at"]
    outputs = [call["function"]["output"] for call in ended["step_details"]["tool_calls"]]
    assert outputs == ["one", "two"]


def test_a_step_that_is_withdrawn_is_cancelled_unless_it_had_ended() -> None:
    translator = Translator(CONFIG)
    translator.feed(BEGUN)
    text = translator.feed(
        step(3, "in_progress", "code_interpreter") + step(4, "withdrawn", "code_interpreter")
    )
    assert blocks_of(text.decode())[-1].event == "thread.run.step.cancelled"
    other = Translator(CONFIG)
    other.feed(BEGUN + step(3, "completed", "file_search", results=[]))
    assert other.feed(step(4, "withdrawn", "file_search", results=[])) == b""


def test_what_the_wire_has_no_word_for_is_left_out() -> None:
    translator = Translator(CONFIG)
    question = message("completed", "2 + 2") | {"role": "user", "run_id": None}
    text = translator.feed(
        block(1, "message.created", message=question) + step(2, "completed", "web_search")
    )
    assert text == b""
