"""Events of threads and runs as domain events; what can't be read is an error of ours."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.assistants import decode
from app.adapters.assistants.decode import Rereader, RunDecoder
from app.adapters.assistants.tail import RunName, Tail
from app.adapters.wire.sse import NamedEvent
from app.domain.errors import UpstreamError
from app.domain.models import PartKind, RunStatus, Usage
from app.domain.text import is_storable
from app.ports import Ended, Restarted, Started, TextDelta, UpstreamEvent

NAMES = [
    "thread.created",
    *(f"thread.run.{status}" for status in (*decode.STATUSES, *decode.RUNNING, "created", "new")),
    *(f"thread.run.step.{what}" for what in ("created", "delta", "completed", "new")),
    *(f"thread.message.{what}" for what in ("created", "delta", "completed", "incomplete", "new")),
    "error",
    "done",
    "",
]


def decoded(*events: tuple[str, Any], decoder: RunDecoder | None = None) -> list[Any]:
    decoder = decoder or RunDecoder("thread_1")
    found: list[UpstreamEvent | Ended] = []
    for name, data in events:
        found.extend(decoder.decode(NamedEvent(name, json.dumps(data).encode())))
    return found


def run(status: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"thread.run.{status}", {"id": "run_1", "status": status, **fields}


def delta(text: str, *, of: str = "msg_1", index: int = 0) -> tuple[str, dict[str, Any]]:
    content = [{"index": index, "type": "text", "text": {"value": text}}]
    return "thread.message.delta", {"id": of, "delta": {"content": content}}


def message(what: str, *texts: str, of: str = "msg_1", **fields: Any) -> tuple[str, Any]:
    content = [{"type": "text", "text": {"value": text, "annotations": []}} for text in texts]
    return f"thread.message.{what}", {
        "id": of,
        "role": "assistant",
        "content": content,
        **fields,
    }


MEMBERS = [
    *("id", "role", "content", "delta", "status", "type", "text", "value", "index", "error"),
    *("step_details", "tool_calls", "usage", "required_action", "code", "last_error"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(MEMBERS) | st.text(), inner, max_size=5)
    ),
    max_leaves=20,
)


def failure_of(*events: NamedEvent) -> UpstreamError | None:
    """Return the error that the events come to, if they do; any other fails the test."""
    decoder = RunDecoder("thread_1")
    try:
        for event in events:
            list(decoder.decode(event))
    except UpstreamError as error:
        return error
    return None


@given(st.lists(st.tuples(st.sampled_from(NAMES), json_values), max_size=6))
def test_whatever_comes_is_an_event_or_an_error_of_ours(events: list[tuple[str, Any]]) -> None:
    error = failure_of(*(NamedEvent(name, json.dumps(data).encode()) for name, data in events))
    assert error is None or (error.retryable, error.generated) == (True, True)


@given(st.binary(max_size=50), st.sampled_from(NAMES))
def test_bytes_that_are_no_json_are_garbage(data: bytes, name: str) -> None:
    error = failure_of(NamedEvent(name, b"{]" + data))
    is_passed_over = name in {"thread.created", "done", ""} or name.endswith(".new")
    assert (error is None) is is_passed_over
    assert error is None or error.code == "upstream_garbage"


def test_an_unknown_name_means_nothing_whatever_its_data_says() -> None:
    _, ended = run("completed")
    names = ("thread.run.finished", "agent.run.completed", "completed", "thread.run.", "")
    assert decoded(*((name, ended) for name in names)) == []


def test_a_run_is_named_once_and_with_its_thread() -> None:
    assert decoded(run("queued"), run("in_progress"), ("thread.run.created", {"id": "run_1"})) == [
        Started("thread_1/run_1")
    ]


@pytest.mark.parametrize("status", decode.STATUSES)
def test_the_events_name_says_how_a_run_ended(status: str) -> None:
    action = {"submit_tool_outputs": {"tool_calls": []}}
    _, data = run("in_progress", required_action=action)
    *_, ended = decoded((f"thread.run.{status}", data))
    assert isinstance(ended, Ended)
    assert ended.status is RunStatus(status)


def test_parts_are_numbered_over_all_messages_in_their_order() -> None:
    decoder = RunDecoder("thread_1")
    events = decoded(
        message("created"),
        delta("a"),
        delta("b", index=2),
        message("completed", "a", "b"),
        message("created", of="msg_2"),
        delta("c", of="msg_2"),
        message("completed", "c", of="msg_2"),
        run("completed", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        decoder=decoder,
    )
    assert [event for event in events if isinstance(event, TextDelta)] == [
        TextDelta(0, "a"),
        TextDelta(1, "b"),
        TextDelta(2, "c"),
    ]
    ended = events[-1]
    assert [part.text for part in ended.content] == ["a", "b", "c"]
    assert ended.tail == "run_1/msg_2"
    assert ended.usage == Usage(1, 2, 3)
    assert decoder.is_whole


@pytest.mark.parametrize(
    "events",
    [
        [],
        [message("created"), delta("a")],
        [message("completed", "a"), message("created", of="msg_2")],
        [delta("a", of="msg_0"), message("completed", "a")],
    ],
)
def test_what_was_not_heard_to_its_end_is_not_whole(events: list[tuple[str, Any]]) -> None:
    decoder = RunDecoder("thread_1")
    decoded(*events, run("completed"), decoder=decoder)
    assert not decoder.is_whole


def test_a_message_that_is_created_again_keeps_what_it_says_and_other_messages_stay() -> None:
    events = decoded(
        message("created"),
        delta("first"),
        message("completed", "first"),
        message("created", of="msg_2"),
        delta("kept", of="msg_2", index=0),
        delta("lost", of="msg_2", index=1),
        message("created", "kept", of="msg_2"),
        delta("new", of="msg_2", index=1),
    )
    place = events.index(Restarted())
    assert events[place + 1 :] == [
        TextDelta(0, "first"),
        TextDelta(1, "kept"),
        TextDelta(2, "new"),
    ]


def test_a_message_that_is_announced_twice_is_not_begun_again() -> None:
    assert decoded(message("created"), message("created"), delta("a")) == [TextDelta(0, "a")]


def test_what_students_say_is_not_the_answer() -> None:
    said = message("created", "2x = 6", role="user")
    assert decoded(said, message("completed", "2x = 6", role="user")) == []


def test_every_tool_call_is_told_as_it_begins_and_ends() -> None:
    kinds = ("code_interpreter", "file_search")
    calls = [{"index": n, "id": f"call_{n}", "type": kind} for n, kind in enumerate(kinds)]
    changes = {"delta": {"step_details": {"tool_calls": calls}}, "id": "step_1"}
    nameless = {"delta": {"step_details": {"tool_calls": [{"index": 0, "type": kinds[0]}]}}}
    whole = [{"id": call["id"], "type": call["type"]} for call in calls]
    events = decoded(
        ("thread.run.step.created", {"id": "step_1", "step_details": {"tool_calls": []}}),
        ("thread.run.step.delta", changes),
        ("thread.run.step.delta", {"id": "step_1", **nameless}),
        ("thread.run.step.completed", {"id": "step_1", "step_details": {"tool_calls": whole}}),
    )
    assert [(event.key, event.kind, event.status) for event in events] == [
        ("call_0", "code_interpreter", "in_progress"),
        ("call_1", "file_search", "in_progress"),
        ("call_0", "code_interpreter", "completed"),
        ("call_1", "file_search", "completed"),
    ]


@given(st.lists(st.sampled_from("/a1"), max_size=6).map("".join), st.text(max_size=5))
def test_a_tail_is_read_as_it_was_written(written: str, other: str) -> None:
    for text in (written, other):
        assert Tail.read(text) in {Tail(), Tail.read(str(Tail.read(text)))}
    tails = [Tail("run_1", "msg_1"), Tail("run_1", "", 2, "abc"), Tail(message_id="msg_1")]
    for tail in tails:
        assert Tail.read(str(tail)) == tail
        name = RunName("thread_1", "run_1", tail)
        read = RunName.read(str(name))
        assert read is not None
        assert (read.thread_id, read.run_id) == ("thread_1", "run_1")
        assert read.tail == (tail if tail.is_open else Tail())


def test_names_are_cleaned_of_what_postgres_refuses() -> None:
    call = {"id": "call\x00", "function": {"name": "f\ud800", "arguments": "{}\x00"}}
    (_, ended) = decoded(
        run("requires_action", required_action={"submit_tool_outputs": {"tool_calls": [call]}})
    )
    (found,) = ended.tool_calls
    for text in (found.id, found.name, found.arguments):
        assert is_storable(text)


@pytest.mark.parametrize("run_id", ["", "a/b", "..", "run\x00", "run 1", "a?b", "é", "r" * 201, 1])
def test_an_id_that_could_lead_elsewhere_is_garbage(run_id: Any) -> None:
    data = json.dumps({"id": run_id, "status": "queued"}).encode()
    error = failure_of(NamedEvent("thread.run.queued", data))
    assert error is not None
    assert error.code == "upstream_garbage"


@given(
    st.lists(st.text(max_size=5), max_size=4),
    st.lists(st.lists(st.text(max_size=5), max_size=4), max_size=4),
)
def test_what_is_read_again_adds_up_to_what_is_there(
    last: list[str], before: list[list[str]]
) -> None:
    reader, parts = Rereader(), {}
    for texts in [*before, last]:
        _, read = message("in_progress", *texts)
        for event in reader.news([read]):
            match event:
                case Restarted():
                    parts = {}
                case TextDelta(part, text, PartKind.TEXT):
                    assert text
                    parts[part] = parts.get(part, "") + text
                case _:
                    pytest.fail(f"{event} is no news of a text")
        assert parts == {index: text for index, text in enumerate(texts) if text}
