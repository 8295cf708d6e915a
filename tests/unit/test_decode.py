"""The dialect's events as domain events; what can't be read is an error of ours, never a crash."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.responses import decode
from app.adapters.responses.decode import ResponseDecoder
from app.adapters.responses.steps import ITEM_EVENTS
from app.domain.errors import UpstreamError, UpstreamInterruptedError
from app.domain.models import Part, PartKind, RunStatus, ToolCall, Usage
from app.domain.steps import StepStatus, call_details
from app.domain.text import is_storable
from app.ports import Ended, Started, Step, TextDelta, UpstreamEvent

USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def decoded(*events: Any) -> list[UpstreamEvent]:
    decoder = ResponseDecoder()
    found: list[UpstreamEvent] = []
    for event in events:
        found.extend(decoder.decode(json.dumps(event).encode()))
    return found


def delta(text: Any, *, output: Any = 0, content: Any = 0, **more: Any) -> dict[str, Any]:
    type_ = "response.output_text.delta"
    places = {"output_index": output, "content_index": content}
    return {"type": type_, "delta": text, **places, **more}


def message(*content: dict[str, Any], id_: Any = "msg_up") -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "id": id_, "content": list(content)}


def text_part(text: Any, **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, **more}


def call(**changes: Any) -> dict[str, Any]:
    fields = {"id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
    return {"type": "function_call", **fields, **changes}


def end(status: str, *output: Any, **more: Any) -> dict[str, Any]:
    response = {"id": "resp_1", "status": status, "output": list(output), **more}
    return {"type": f"response.{status}", "response": response}


def ended(*events: Any) -> Ended:
    found = decoded(*events)[-1]
    assert isinstance(found, Ended)
    return found


def test_a_created_response_is_started_with_its_id() -> None:
    assert decoded({"type": "response.created", "response": {"id": "resp_1"}}) == [
        Started("resp_1")
    ]


def test_parts_are_numbered_in_the_order_in_which_they_appear() -> None:
    found = decoded(
        delta("a", output=2, content=0),
        delta("b", output=2, content=1),
        delta("c", output=2, content=0),
        delta("d", output=5, content=0),
    )
    assert found == [TextDelta(0, "a"), TextDelta(1, "b"), TextDelta(0, "c"), TextDelta(2, "d")]


def test_a_refusal_is_text_of_its_own_kind() -> None:
    event = delta("No.") | {"type": "response.refusal.delta"}
    assert decoded(event) == [TextDelta(0, "No.", PartKind.REFUSAL)]


def test_events_that_come_twice_or_late_are_dropped_once_numbered() -> None:
    found = decoded(
        delta("a", sequence_number=4),
        delta("a", sequence_number=4),
        delta("b", sequence_number=5),
        delta("late", sequence_number=3),
        delta("unnumbered"),
    )
    assert [event.text for event in found if isinstance(event, TextDelta)] == [
        "a",
        "b",
        "unnumbered",
    ]


def test_an_end_counts_even_when_its_number_is_wrong() -> None:
    found = decoded(delta("a", sequence_number=9), end("completed") | {"sequence_number": 1})
    assert isinstance(found[-1], Ended)


def item_event(name: str, kind: str, **more: Any) -> dict[str, Any]:
    item = {"type": f"{kind}_call", "id": "it_1", **more}
    return {"type": f"response.output_item.{name}", "output_index": 0, "item": item}


@pytest.mark.parametrize(
    ("event", "step"),
    [
        (
            item_event("added", "code_interpreter", status="in_progress", code="1", outputs=None),
            Step("it_1", "code_interpreter", StepStatus.IN_PROGRESS, {"input": "1"}),
        ),
        (
            item_event("done", "code_interpreter", status="completed", code="1\x00", outputs=[]),
            Step(
                "it_1",
                "code_interpreter",
                StepStatus.COMPLETED,
                {"input": "1\ufffd", "outputs": []},
            ),
        ),
        (
            item_event(
                "done",
                "code_interpreter",
                status="completed",
                code="plot()",
                container_id="cntr_1",
                outputs=[
                    {"type": "logs", "logs": "1\x00"},
                    {"type": "image", "url": "data:image/png;base64,AAAA"},
                ],
            ),
            Step(
                "it_1",
                "code_interpreter",
                StepStatus.COMPLETED,
                {
                    "input": "plot()",
                    "outputs": [{"type": "logs", "logs": "1\ufffd"}, {"type": "image"}],
                },
            ),
        ),
        (
            {
                "type": "response.code_interpreter_call_code.done",
                "sequence_number": 5,
                "output_index": 0,
                "item_id": "it_1",
                "code": "print(1)",
            },
            Step("it_1", "code_interpreter", StepStatus.IN_PROGRESS, {"input": "print(1)"}),
        ),
        (
            item_event(
                "done",
                "file_search",
                status="completed",
                queries=["attributes of an ancient brown dragon?"],
                results=[
                    {
                        "file_id": "file-4wDz5b167pAf72nx1h9eiN",
                        "filename": "dragons.pdf",
                        "score": 0.98,
                        "attributes": {},
                        "text": "Dragons are.",
                    }
                ],
            ),
            Step(
                "it_1",
                "file_search",
                StepStatus.COMPLETED,
                {
                    "queries": ["attributes of an ancient brown dragon?"],
                    "results": [
                        {
                            "file_id": "file-4wDz5b167pAf72nx1h9eiN",
                            "file_name": "dragons.pdf",
                            "score": 0.98,
                            "text": "Dragons are.",
                        }
                    ],
                },
            ),
        ),
        (
            item_event("added", "file_search", status="in_progress", queries=[], results=None),
            Step("it_1", "file_search", StepStatus.IN_PROGRESS),
        ),
        (
            item_event("done", "file_search", status="failed", queries=["q"]),
            Step("it_1", "file_search", StepStatus.FAILED, {"queries": ["q"]}),
        ),
        (
            item_event("done", "web_search", status="completed", action={"query": "secret"}),
            Step("it_1", "web_search", StepStatus.COMPLETED),
        ),
    ],
)
def test_calls_of_the_upstreams_own_tools_are_steps(event: dict[str, Any], step: Step) -> None:
    assert decoded(event) == [step]


@pytest.mark.parametrize(
    "name",
    [
        "code_interpreter_call.in_progress",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "code_interpreter_call_code.delta",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_text.annotation.added",
    ],
)
def test_what_an_items_own_account_repeats_is_passed_over(name: str) -> None:
    event = {"type": f"response.{name}", "sequence_number": 3, "output_index": 0, "item_id": "x"}
    assert decoded(event | {"delta": "x", "annotation": {"type": "file_citation"}}) == []


NOTES: list[dict[str, Any]] = [
    {"type": "file_citation", "index": 992, "file_id": "file-2dtbBZ", "filename": "dragons.pdf"},
    {"type": "file_path", "index": 3, "file_id": "file-9"},
    {
        "type": "container_file_citation",
        "container_id": "cntr_1",
        "file_id": "cfile_1",
        "filename": "plot.png",
        "start_index": 1,
        "end_index": 2,
    },
    {"type": "url_citation", "url": "https://example.org", "title": "t", "start_index": 0,
     "end_index": 1},
]  # fmt: skip


def test_citations_of_every_kind_are_kept_on_their_part() -> None:
    found = ended(end("completed", message(text_part("See.", annotations=NOTES))))
    assert found.content == [Part("See.", PartKind.TEXT, tuple(NOTES))]


def test_a_function_call_is_a_step_that_goes_on_until_it_is_answered() -> None:
    found = decoded(
        {"type": "response.output_item.added", "item": call(arguments="")},
        {"type": "response.output_item.done", "item": call()},
        {"type": "response.output_item.added", "item": message()},
    )
    assert found == [
        Step("call_1", "function", StepStatus.IN_PROGRESS, call_details([ToolCall(*asked)]))
        for asked in (("call_1", "f", ""), ("call_1", "f", "{}"))
    ]


@pytest.mark.parametrize(
    "type_",
    [
        "response.in_progress",
        "response.queued",
        "response.content_part.added",
        "response.output_text.done",
        "response.output_text.annotation.added",
        "response.reasoning_text.delta",
        "response.function_call_arguments.delta",
        "response.code_interpreter_call_code.delta",
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call.completed",
        "something.of.next.year",
        "",
    ],
)
def test_events_that_mean_nothing_here_are_passed_over(type_: str) -> None:
    assert decoded({"type": type_, "delta": "x", "unknown": [1]}) == []


def test_a_completed_response_carries_content_usage_and_tail() -> None:
    notes = [{"type": "url_citation", "url": "https://x"}]
    found = ended(
        end(
            "completed",
            {"type": "reasoning", "id": "rs_1"},
            message(text_part("a", annotations=notes), {"type": "refusal", "refusal": "no"}),
            message(text_part("b"), id_="msg_2"),
            usage=USAGE,
        )
    )
    assert found.status is RunStatus.COMPLETED
    assert found.content == [
        Part("a", PartKind.TEXT, tuple(notes)),
        Part("no", PartKind.REFUSAL),
        Part("b"),
    ]
    assert found.usage == Usage(1, 2, 3)
    assert found.tail == "msg_2"
    assert found.error_code is None


def test_a_completed_response_that_calls_functions_requires_action() -> None:
    found = ended(end("completed", message(text_part("x")), call(), usage=None))
    assert found.status is RunStatus.REQUIRES_ACTION
    assert found.tool_calls == [ToolCall("call_1", "f", "{}")]


def test_an_incomplete_response_says_why() -> None:
    details = {"reason": "max_output_tokens"}
    found = ended(end("incomplete", message(text_part("a")), incomplete_details=details))
    assert found.status is RunStatus.INCOMPLETE
    assert found.incomplete_reason == "max_output_tokens"
    assert found.content == [Part("a")]


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"code": "server_error", "message": "secret"}, "upstream_unavailable", True),
        ({"code": "rate_limit_exceeded", "message": "secret"}, "upstream_rate_limited", True),
        ({"code": "vector_store_timeout"}, "upstream_unavailable", True),
        ({"code": "invalid_prompt", "message": "secret"}, "upstream_rejected", False),
        ({"code": "of_next_year"}, "upstream_rejected", False),
        ({}, "upstream_unavailable", True),
        (None, "upstream_unavailable", True),
    ],
)
def test_a_failed_response_has_a_stable_code_and_not_the_vendors_words(
    error: Any, code: str, *, retryable: bool
) -> None:
    found = ended(end("failed", error=error))
    assert found.status is RunStatus.FAILED
    assert (found.error_code, found.retryable) == (code, retryable)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("code", "expected", "retryable"),
    [
        ("rate_limit_exceeded", "upstream_rate_limited", True),
        ("server_error", "upstream_unavailable", True),
        ("invalid_request", "upstream_rejected", False),
    ],
)
def test_an_error_event_is_raised_and_a_generation_may_have_begun(
    code: str, expected: str, *, retryable: bool
) -> None:
    with pytest.raises(UpstreamError) as caught:
        decoded({"type": "error", "code": code, "message": "secret", "sequence_number": 1})
    assert (caught.value.code, caught.value.retryable) == (expected, retryable)
    assert caught.value.generated
    assert "secret" not in str(caught.value)


def nested(depth: int) -> Any:
    return {"in": nested(depth - 1)} if depth else {}


GARBAGE = [
    b"",
    b"[DONE",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"{}",
    b'{"type":null}',
    b'{"type":["x"]}',
    b'{"type":"\xff"}',
    b"[" * 100_000,
    json.dumps(delta(5)).encode(),
    json.dumps(delta(None)).encode(),
    json.dumps(delta(["a"])).encode(),
    json.dumps(delta("a", output=[1])).encode(),
    json.dumps(delta("a") | {"type": "response.refusal.delta", "delta": {}}).encode(),
    b'{"type":"response.output_text.delta"}',
    b'{"type":"response.created"}',
    b'{"type":"response.created","response":{"id":5}}',
    b'{"type":"response.output_item.added","item":null}',
    b'{"type":"response.completed"}',
    b'{"type":"response.completed","response":{}}',
    json.dumps({"type": "error", "code": []}).encode(),
    *(
        json.dumps(found).encode()
        for found in [
            end("completed") | {"response": {"status": "of_next_year"}},
            end("completed", None),
            end("completed", message(text_part(None))),
            end("completed", message(text_part(7))),
            end("completed", message(text_part("a", annotations=3))),
            end("completed", message({"type": "refusal", "refusal": None})),
            end("completed", message(text_part("a"), id_=4)),
            end("completed", call(arguments=None)),
            end("completed", call(name={})),
            end("completed", call(call_id=1)),
            end("completed", usage="x"),
            end("completed", usage={"input_tokens": 1}),
            end("completed", usage=USAGE | {"total_tokens": "3"}),
            end("incomplete", incomplete_details={"reason": 4}),
            end("incomplete", incomplete_details="x"),
            end("failed", error="x"),
        ]
    ),
    # Deeper than what can be written again; with an escape the parser is one that takes it.
    json.dumps(end("completed", message(text_part("a", annotations=[nested(300)])))).encode(),
    json.dumps(end("completed", message(text_part("\xe9", annotations=[nested(300)])))).encode(),
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: data[:80].decode(errors="replace"))
def test_what_cannot_be_read_is_upstream_garbage(data: bytes) -> None:
    with pytest.raises(UpstreamInterruptedError) as caught:
        list(ResponseDecoder().decode(data))
    assert caught.value.code == "upstream_garbage"
    assert caught.value.retryable


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ["response", "item", "delta", "output_index", "content_index", "sequence_number", "code"]
TYPES = sorted({*decode.ENDS, *ITEM_EVENTS, decode.TEXT_DELTA, decode.REFUSAL_DELTA})


@given(
    st.sampled_from([*TYPES, "response.created", "error"]),
    st.dictionaries(st.sampled_from(KEYS), json_values),
)
def test_any_json_is_decoded_or_refused_in_domain_words(type_: str, rest: Any) -> None:
    try:
        found = list(ResponseDecoder().decode(json.dumps({"type": type_, **rest}).encode()))
    except UpstreamError:
        return
    for event in found:
        if isinstance(event, TextDelta):
            assert isinstance(event.text, str)


def test_everything_but_the_text_is_cleaned_of_what_postgres_refuses() -> None:
    bad = "a\x00\ud800"
    found = ended(
        end(
            "completed",
            message(text_part("x", annotations=[{bad: [{"url": bad}]}])),
            call(call_id=bad, name=bad, arguments=bad, id=bad),
            incomplete_details={"reason": bad},
        )
    )
    (made,) = found.tool_calls
    annotations = json.dumps(list(found.content[0].annotations), ensure_ascii=False)
    assert is_storable(annotations)
    assert "\\u0000" not in annotations
    for text in (made.id, made.name, made.arguments, found.tail, found.incomplete_reason):
        assert text is not None
        assert is_storable(text)
