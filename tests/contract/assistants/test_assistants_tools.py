"""Rounds of one run: functions are answered, and it goes on where it was."""

from dataclasses import replace

import pytest

from app.adapters.assistants.upstream import AssistantsUpstream
from app.domain.errors import ThreadLostError, UpstreamInterruptedError
from app.domain.models import Role, RunStatus
from app.domain.steps import StepStatus
from app.ports import Calls, Generation, Restarted, Started, Step, TextDelta, Turn
from tests.contract.assistants.conftest import (
    CONFIG,
    RUN,
    THREAD,
    Replay,
    ask,
    followed,
    played,
)
from tests.contract.assistants.test_assistants_outcomes import text_of
from tests.contract.assistants.test_assistants_streams import ANSWER, CALL, USAGE

ANSWERED = replace(CALL, output="70 degrees and sunny.")
SUNNY = "It is sunny."


async def waiting(upstream: AssistantsUpstream, replay: Replay, name: str) -> Generation:
    """Ask what ends with a call; return what gives its output."""
    hearing = await played(upstream, replay, name)
    assert hearing.end.status is RunStatus.REQUIRES_ACTION
    return replace(
        ask(),
        turns=(),
        outputs=[ANSWERED],
        asked_by=hearing.response_id,
        tail=hearing.end.tail,
    )


@pytest.mark.parametrize(
    ("asked", "submitted"),
    [
        ("requires_action", "submitted"),
        ("spoken_before", "submitted"),
        ("spoken_before", "submitted_same_message"),
    ],
)
async def test_a_run_goes_on_with_what_its_functions_returned(
    upstream: AssistantsUpstream, replay: Replay, asked: str, submitted: str
) -> None:
    outputs = await waiting(upstream, replay, asked)
    hearing = await played(upstream, replay, submitted, generation=outputs)
    # What was said before the functions were called is not said again, nor counted.
    assert hearing.answer == SUNNY
    assert hearing.end.status is RunStatus.COMPLETED
    assert hearing.end.usage == USAGE
    heard = hearing.events[-4:]
    assert heard == [TextDelta(0, text) for text in ("It", " is", " sunny", ".")]
    assert not [event for event in hearing.events if isinstance(event, Step)]
    assert (Restarted() in hearing.events) is (submitted == "submitted_same_message")


@pytest.mark.parametrize("polled", ["polled_second_round", "polled_same_message"])
@pytest.mark.parametrize("is_named", [True, False])
async def test_a_round_that_breaks_is_followed_without_what_was_said_before(
    upstream: AssistantsUpstream, replay: Replay, polled: str, *, is_named: bool
) -> None:
    outputs = await waiting(upstream, replay, "spoken_before")
    broken = await played(upstream, replay, "submitted_cut", generation=outputs)
    assert isinstance(broken.failure, UpstreamInterruptedError)
    name = broken.response_id if is_named else None
    ended, heard = await followed(upstream, replay, polled, response_id=name, tail=outputs.tail)
    assert heard == [TextDelta(0, "It is")]
    assert text_of(ended) == SUNNY
    # Whoever cancels it knows nothing but its name.
    if polled == "polled_same_message":
        replay.play("cancel_too_late_in_a_round")
        kept = await upstream.cancel(broken.response_id)
        assert text_of(kept) == SUNNY


async def test_outputs_that_did_not_arrive_are_given_again(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    outputs = await waiting(upstream, replay, "spoken_before")
    ended, heard = await followed(
        upstream, replay, "still_waiting", response_id=None, tail=outputs.tail
    )
    assert ended is None
    assert heard == []


async def test_a_round_may_end_with_other_calls(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    outputs = await waiting(upstream, replay, "spoken_before")
    ended, _ = await followed(
        upstream, replay, "waits_for_more", response_id=RUN, tail=outputs.tail
    )
    assert [call.id for call in ended.tool_calls] == ["call_002"]
    assert text_of(ended) == "And Seoul?"
    assert ended.tail != outputs.tail


async def test_outputs_that_had_arrived_are_not_refused(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    outputs = await waiting(upstream, replay, "spoken_before")
    twice = await played(upstream, replay, "submitted_twice", generation=outputs)
    assert isinstance(twice.failure, UpstreamInterruptedError)
    refused = await played(upstream, replay, "submit_refused", generation=outputs)
    assert refused.failure.code == "upstream_rejected"
    assert not refused.failure.retryable


async def test_a_run_that_is_gone_is_rebuilt_elsewhere(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    outputs = await waiting(upstream, replay, "spoken_before")
    gone = await played(upstream, replay, "submit_gone", generation=outputs)
    assert isinstance(gone.failure, ThreadLostError)
    other = replace(outputs, asked_by="resp_of_another_dialect")
    assert isinstance((await played(upstream, replay, generation=other)).failure, ThreadLostError)
    turns = [Turn(Role.USER, ["Weather?"]), Calls([ANSWERED])]
    told = await played(upstream, replay, "told_in_words", generation=replace(ask(), turns=turns))
    assert told.answer == ANSWER


async def test_what_the_upstreams_own_tools_did_unheard_is_told_at_the_end(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, heard = await followed(upstream, replay, "polled_steps")
    result = {"file_id": "file_1", "file_name": "book.txt", "score": 0.9, "text": "One.\nTwo."}
    outputs = [{"type": "logs", "logs": "2"}]
    done = StepStatus.COMPLETED
    assert heard == [
        Step("call_002", "code_interpreter", done, {"input": "1 + 1", "outputs": outputs}),
        Step("call_003", "file_search", done, {"results": [result]}),
    ]
    assert text_of(ended) == ANSWER


async def test_whether_functions_must_be_called_goes_with_the_run(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    config = replace(CONFIG, tools=tools, tool_choice="required", parallel_tool_calls=False)
    hearing = await played(upstream, replay, "made_tutor", "forced", generation=ask(config=config))
    assert hearing.answer == ANSWER
    assert hearing.events[0] == Started(RUN)
    assert THREAD in hearing.response_id
