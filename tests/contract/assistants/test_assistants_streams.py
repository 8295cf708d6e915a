"""Runs as they are streamed: to each of their ends, and to none."""

import asyncio
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from app.adapters.assistants.upstream import AssistantsUpstream
from app.domain.errors import (
    ThreadBusyError,
    ThreadLostError,
    UpstreamError,
    UpstreamInterruptedError,
)
from app.domain.models import Part, PartKind, RunStatus, ToolCall, Usage
from app.domain.steps import StepStatus, call_details
from app.ports import Restarted, Started, Step, TextDelta
from app.services.tutors import TutorBook
from tests.contract.assistants.conftest import CONFIG, RUN, Replay, ask, played

pytestmark = pytest.mark.usefixtures("company")

ANSWER = "Hello! How can I assist you today?"
CUT = "Hello! How"
USAGE = Usage(20, 11, 31)
CALL = ToolCall("call_001", "get_current_weather", '{"location":"San Francisco, CA"}')


async def test_a_plain_run_is_heard_and_told_whole(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "plain")
    assert hearing.events[0] == Started(RUN)
    assert hearing.text == hearing.answer == ANSWER
    assert all(isinstance(event, TextDelta) for event in hearing.events[1:])
    assert hearing.end.status is RunStatus.COMPLETED
    assert hearing.end.usage == USAGE
    assert hearing.end.tail == "run_123/msg_001"
    assert not hearing.end.tool_calls


def by_byte(body: bytes) -> Sequence[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


def by_97(body: bytes) -> Sequence[bytes]:
    return [body[place : place + 97] for place in range(0, len(body), 97)]


@pytest.mark.parametrize("cut", [by_byte, by_97], ids=["by byte", "by 97"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
async def test_lines_may_end_as_they_like_and_be_cut_anywhere(
    upstream: AssistantsUpstream,
    replay: Replay,
    newline: bytes,
    cut: Callable[[bytes], Sequence[bytes]],
) -> None:
    replay.change = lambda body: cut(body.replace(b"\n", newline))
    hearing = await played(upstream, replay, "plain")
    assert hearing.text == hearing.answer == ANSWER


async def test_events_that_nobody_knows_are_passed_over(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "unknown")
    assert [event for event in hearing.events if not isinstance(event, TextDelta)] == [
        Started(RUN)
    ]
    assert hearing.text == hearing.answer == ANSWER


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("cancelled", RunStatus.CANCELLED, None),
        ("expired", RunStatus.EXPIRED, None),
        ("incomplete", RunStatus.INCOMPLETE, "max_output_tokens"),
        ("filtered", RunStatus.INCOMPLETE, "content_filter"),
    ],
)
async def test_a_run_that_is_cut_short_says_how(
    upstream: AssistantsUpstream, replay: Replay, name: str, status: RunStatus, reason: str | None
) -> None:
    hearing = await played(upstream, replay, name)
    assert hearing.text == hearing.answer == CUT
    assert (hearing.end.status, hearing.end.incomplete_reason) == (status, reason)
    assert hearing.end.usage == (None if name == "expired" else USAGE)


@pytest.mark.parametrize(
    ("name", "code", "retryable"),
    [
        ("failed", "upstream_unavailable", True),
        ("rate_limited", "upstream_rate_limited", True),
        ("invalid_prompt", "upstream_rejected", False),
    ],
)
async def test_a_run_that_fails_says_whether_another_one_may_do_better(
    upstream: AssistantsUpstream, replay: Replay, name: str, code: str, *, retryable: bool
) -> None:
    end = (await played(upstream, replay, name)).end
    assert (end.status, end.error_code, end.retryable) == (RunStatus.FAILED, code, retryable)


async def test_a_run_that_wants_a_function_called_says_which(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "requires_action")
    assert hearing.end.status is RunStatus.REQUIRES_ACTION
    assert hearing.end.tool_calls == [CALL]
    begun = ToolCall("call_001", "get_current_weather", "")
    step = Step("call_001", "function", StepStatus.IN_PROGRESS, call_details([begun]))
    assert hearing.events == [Started(RUN), step]
    # All rounds are counted together, at the end.
    assert hearing.end.usage is None


async def test_what_the_tutor_does_meanwhile_is_told_once(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "code_interpreter")
    tool = "code_interpreter"
    assert hearing.events == [
        Started(RUN),
        Step("call_002", tool, StepStatus.IN_PROGRESS),
        Step("call_002", tool, StepStatus.COMPLETED, {"input": "1 + 1"}),
        TextDelta(0, "2"),
    ]
    assert hearing.answer == "2"
    assert hearing.end.tail == "run_123/msg_002"


async def test_citations_and_refusals_are_kept(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    cited = await played(upstream, replay, "cited")
    (part,) = cited.end.content
    assert part.text == cited.text == "Hello 【4:0†book】"
    place = {"text": "【4:0†book】", "start_index": 6, "end_index": 17}
    assert part.annotations == ({"type": "file_citation", "file_id": "file_123", **place},)
    refused = await played(upstream, replay, "refusal")
    assert refused.end.content == [Part("I can't.", PartKind.REFUSAL)]
    assert refused.events[1:] == [TextDelta(0, "I can't.", PartKind.REFUSAL)]


async def test_a_message_that_begins_again_is_heard_again(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "restarted")
    (place,) = [i for i, event in enumerate(hearing.events) if event == Restarted()]
    after = [event for event in hearing.events[place:] if isinstance(event, TextDelta)]
    assert "".join(event.text for event in after) == hearing.answer == ANSWER
    assert {event.part for event in after} == {0}


@pytest.mark.parametrize(
    "name",
    ["eof", "eof_middle", "done_only", "garbage", "html", "error_nested", "error_flat"],
)
async def test_a_stream_without_its_runs_end_has_not_ended(
    upstream: AssistantsUpstream, replay: Replay, name: str
) -> None:
    hearing = await played(upstream, replay, name)
    assert (hearing.failure.retryable, hearing.failure.generated) == (True, True)
    garbled = {"garbage", "html"}
    expected = "upstream_garbage" if name in garbled else "upstream_interrupted"
    code = "upstream_unavailable" if name == "error_flat" else expected
    assert hearing.failure.code == code
    assert ANSWER.startswith(hearing.text)
    if name != "html":
        assert hearing.response_id == RUN


async def test_an_error_before_any_run_says_what_it_was(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    failure = (await played(upstream, replay, "error_first")).failure
    assert failure.code == "upstream_rate_limited"
    assert (failure.retryable, failure.generated) == (True, True)


async def test_a_stream_is_cut_anywhere_and_never_taken_for_whole(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    whole = (replay.play("plain"), replay.left.pop())[1].body
    end = whole.index(b"event: thread.run.completed")
    for place in itertools.chain(range(0, end, 211), [end, end + 40]):
        replay.change = lambda body, place=place: [body[:place]]  # type: ignore[misc]
        hearing = await played(upstream, replay, "plain")
        assert isinstance(hearing.failure, UpstreamInterruptedError), place
        assert ANSWER.startswith(hearing.text)


async def test_an_end_whose_messages_were_not_all_heard_is_looked_up(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "unheard")
    assert (hearing.text, hearing.answer) == (CUT, ANSWER)
    assert hearing.end.tail == "run_123/msg_001"
    # There is an answer: it must not be asked for again because it can't be read right now.
    failure = (await played(upstream, replay, "unheard_and_away")).failure
    assert isinstance(failure, UpstreamInterruptedError)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("name", ["busy", "busy_adding"])
async def test_a_busy_thread_is_known_by_its_words(
    upstream: AssistantsUpstream, replay: Replay, name: str
) -> None:
    failure = (await played(upstream, replay, name)).failure
    assert isinstance(failure, ThreadBusyError)
    assert not failure.generated


async def test_a_run_that_waits_for_nobody_is_cancelled(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    hearing = await played(upstream, replay, "orphan")
    assert isinstance(hearing.failure, ThreadBusyError)


async def test_a_lost_thread_is_lost(upstream: AssistantsUpstream, replay: Replay) -> None:
    hearing = await played(upstream, replay, "lost")
    assert isinstance(hearing.failure, ThreadLostError)
    nowhere = await played(upstream, replay, generation=ask(thread_id=None))
    assert isinstance(nowhere.failure, ThreadLostError)


async def test_a_tutor_that_the_upstream_lost_is_made_again(
    upstream: AssistantsUpstream, replay: Replay, book: TutorBook
) -> None:
    hearing = await played(upstream, replay, "tutor_lost")
    assert hearing.answer == ANSWER
    await book.remove("asst_456")


async def test_many_turns_are_told_in_order_and_looked_at_when_they_are_not_all_told(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    turns = [str(number) for number in range(34)]
    replay.play("many_turns")
    whole = await played(upstream, replay, generation=ask(*turns))
    assert whole.answer == ANSWER
    cut = await played(upstream, replay, "many_turns_cut", generation=ask(*turns))
    assert isinstance(cut.failure, UpstreamInterruptedError)


# ---------------------------------------------------------------- asked for


async def test_a_run_says_only_what_its_tutor_does_not(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    config = replace(CONFIG, max_output_tokens=300)
    hearing = await played(
        upstream, replay, "limited", generation=replace(ask(config=config), model="gpt-4o-mini")
    )
    assert hearing.answer == ANSWER


async def test_workers_that_make_one_tutor_at_once_use_the_same(book: TutorBook) -> None:
    digests = [f"{number}" for number in range(5)]
    for digest in digests:
        used = await asyncio.gather(*(book.add(digest, f"a-{digest}-{n}") for n in range(6)))
        assert len(set(used)) == 1
        assert await book.find(digest) == used[0]
        assert await book.add(digest, used[0]) == used[0]
        # An upstream that calls two of them the same is taken at its word.
        assert await book.add(f"other-{digest}", used[0]) == used[0]
    spare = await book.unused(100)
    assert len([name for name in spare if re.fullmatch(r"a-\d-\d", name)]) == 5 * 5
    for name in spare:
        await book.remove(name)
    assert not await book.unused(100)


async def test_tutors_that_are_not_used_are_deleted_upstream(
    upstream: AssistantsUpstream, replay: Replay, book: TutorBook
) -> None:
    await book.add("same", "asst_001")
    await book.add("same", "asst_002")
    replay.play("tidy_refused")
    with pytest.raises(UpstreamError):
        await upstream.tidy()
    assert await book.unused(10) == ["asst_002"]
    replay.play("tidy")
    await upstream.tidy()
    await book.add("same", "asst_003")
    replay.play("tidy_gone")
    await upstream.tidy()
    assert await book.unused(10) == []
    assert await book.find("same") == "asst_001"
