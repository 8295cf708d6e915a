"""The exact text of the log: valid JSON, one line, and every type that is promised."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.events import (
    RUN_END_TYPES,
    Delta,
    Draft,
    Event,
    MessageChanged,
    RunChanged,
    StepChanged,
    Withdrawal,
    dump,
    snapshot_data,
)
from app.domain.models import Message, MessageStatus, Part, Role, Run, RunStatus
from app.domain.steps import RunStep, StepStatus

AT = datetime(2026, 11, 24, 8, 0, 0, 5, UTC)
SESSION, MESSAGE, RUN = "sess_1", "msg_1", "run_1"
NASTY = '"\\\u2028\u2029\u0085\x0b\x0c\x1c\x7f\r\n\r\t\x01\N{GRINNING FACE}</script>\ufeff\ufffd'

# The contract's own list.
STATUSES = [
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]
TYPES = {
    "message.created",
    "message.completed",
    "message.incomplete",
    "message.delta",
    "message.reset",
    "run.step",
    *(f"run.{status}" for status in STATUSES),
}


def a_message(status: MessageStatus, text: str = "hi") -> Message:
    return Message(
        id=MESSAGE,
        session_id=SESSION,
        run_id=RUN,
        role=Role.ASSISTANT,
        status=status,
        content=(Part(text),),
        metadata={},
    )


def a_run(status: RunStatus) -> Run:
    return Run(
        id=RUN,
        session_id=SESSION,
        assistant_id="asst_1",
        assistant_version=1,
        model="m",
        status=status,
        attempts=0,
        input_message_id=MESSAGE,
        output_message_id=None,
        metadata={},
    )


def drafts(text: str = "hi") -> Iterator[Draft]:
    yield Delta(MESSAGE, RUN, 0, [text])
    yield Withdrawal(MESSAGE, RUN, 0, "retried")
    yield StepChanged(
        RunStep(
            "step_1", SESSION, RUN, "code_interpreter", StepStatus.IN_PROGRESS, {"input": text}
        )
    )
    yield MessageChanged(a_message(MessageStatus.IN_PROGRESS, text), RUN, is_new=True)
    yield MessageChanged(a_message(MessageStatus.COMPLETED, text), RUN)
    yield MessageChanged(a_message(MessageStatus.INCOMPLETE, text), RUN)
    for status in RunStatus:
        yield RunChanged(a_run(status))


def test_every_promised_type_is_produced_by_a_draft_and_no_other() -> None:
    assert {draft.type for draft in drafts()} == TYPES


@pytest.mark.parametrize("draft", list(drafts(NASTY)), ids=lambda draft: draft.type)
def test_the_data_of_every_draft_names_its_type_session_place_and_instant(draft: Draft) -> None:
    data = json.loads(draft.stamp(SESSION, 7, AT))
    assert list(data)[:4] == ["type", "session_id", "seq", "at"]
    assert data["type"] == draft.type
    assert data["session_id"] == SESSION
    assert data["seq"] == 7
    assert data["at"] == "2026-11-24T08:00:00.000005Z"


@pytest.mark.parametrize("draft", list(drafts(NASTY)), ids=lambda draft: draft.type)
def test_a_block_has_no_line_break_but_its_own(draft: Draft) -> None:
    block = Event(SESSION, 7, draft.type, RUN, draft.stamp(SESSION, 7, AT)).block()
    assert block.endswith(b"\n\n")
    lines = block[:-2].split(b"\n")
    assert [line.partition(b": ")[0] for line in lines] == [b"id", b"event", b"data"]
    assert b"\r" not in block
    assert lines[0] == b"id: 7"
    assert lines[1] == b"event: " + draft.type.encode()


@given(st.lists(st.text(), max_size=5), st.integers(0, 9), st.integers(1, 2**62))
@example([NASTY, NASTY], 0, 1)
@example(["\r\nevent: done\r\ndata: {}\n\n"], 0, 1)
@example([], 0, 1)
def test_the_hand_formatted_delta_is_what_the_encoder_would_write(
    texts: list[str], part: int, seq: int
) -> None:
    expected = {
        "type": "message.delta",
        "session_id": SESSION,
        "seq": seq,
        "at": "2026-11-24T08:00:00.000005Z",
        "message_id": MESSAGE,
        "run_id": RUN,
        "part": part,
        "text": "".join(texts),
    }
    written = Delta(MESSAGE, RUN, part, texts).stamp(SESSION, seq, AT)
    assert written == json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    assert json.loads(written) == expected


@given(st.text())
@example(NASTY)
def test_dumped_text_is_one_line_and_reads_back(text: str) -> None:
    written = dump({"text": text})
    assert json.loads(written) == {"text": text}
    assert not set(written) & {"\r", "\n", "\x00"}


def test_the_end_of_a_stream_has_no_id_so_that_no_cursor_stands_on_it() -> None:
    at = "2026-11-29T08:00:00.000000Z"
    end = Event("sess_1", 7, "run.completed", "run_1", f'{{"type":"run.completed","at":"{at}"}}')
    told = f'{{"type":"done","session_id":"sess_1","seq":7,"at":"{at}"}}'
    assert end.done() == f"event: done\ndata: {told}\n\n".encode()


def test_exactly_the_five_ends_end_a_runs_stream() -> None:
    ends = {"cancelled", "failed", "completed", "incomplete", "expired"}
    assert {f"run.{status}" for status in ends} == RUN_END_TYPES


def test_a_stamped_run_carries_its_instants() -> None:
    queued = RunChanged(a_run(RunStatus.QUEUED))
    queued.stamp(SESSION, 2, AT)
    assert (queued.run.seq, queued.run.created_at) == (2, AT)
    begun = RunChanged(a_run(RunStatus.IN_PROGRESS), lifetime=timedelta(seconds=600))
    begun.stamp(SESSION, 3, AT)
    assert (begun.run.started_at, begun.run.expires_at) == (AT, AT + timedelta(seconds=600))
    ended = RunChanged(replace(begun.run, status=RunStatus.FAILED))
    data = json.loads(ended.stamp(SESSION, 4, AT))
    assert data["run"]["ended_at"] is not None
    assert data["run"]["expires_at"] is None


def test_an_ended_message_keeps_the_place_of_its_beginning() -> None:
    opened = MessageChanged(a_message(MessageStatus.IN_PROGRESS), RUN, is_new=True)
    opened.stamp(SESSION, 3, AT)
    later = AT + timedelta(seconds=1)
    ended = MessageChanged(a_message(MessageStatus.COMPLETED), RUN, opened=opened)
    body = json.loads(ended.stamp(SESSION, 9, later))["message"]
    assert body["seq"] == 3
    assert body["created_at"] == "2026-11-24T08:00:00.000005Z"
    assert body["completed_at"] == "2026-11-24T08:00:01.000005Z"


def test_a_snapshot_is_a_reset_with_messages_and_run() -> None:
    data = json.loads(snapshot_data(SESSION, 5, AT, [{"id": MESSAGE}], None))
    assert data == {
        "type": "reset",
        "session_id": SESSION,
        "seq": 5,
        "at": "2026-11-24T08:00:00.000005Z",
        "messages": [{"id": MESSAGE}],
        "run": None,
    }
