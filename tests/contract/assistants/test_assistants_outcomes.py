"""What became of a run whose end was not seen: polled, found in its thread, or stopped."""

import time
from typing import Any

import pytest

from app.adapters.assistants.upstream import AssistantsUpstream
from app.domain.errors import ThreadLostError, UpstreamError
from app.domain.models import Role, RunStatus, Usage
from app.ports import Restarted, Started, TextDelta, Turn
from tests.contract.assistants.conftest import RUN, THREAD, Replay, followed, played
from tests.contract.assistants.test_assistants_streams import ANSWER

TAIL = "run_000/msg_000"
HISTORY = [Turn(Role.ASSISTANT if n % 2 else Role.USER, [f"{n}"]) for n in range(34)]


def text_of(ended: Any) -> str:
    return "".join(part.text for part in ended.content)


async def test_a_broken_stream_is_polled_and_what_is_new_is_heard_once(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    broken = await played(upstream, replay, "eof")
    began = time.monotonic()
    ended, heard = await followed(
        upstream, replay, "polled", response_id=broken.response_id, tail=TAIL
    )
    # Three polls, 50 ms apart as the upstream asks; a second each would be our own.
    assert time.monotonic() - began >= 0.15
    assert heard == [TextDelta(0, "Hello! How"), TextDelta(0, " can I assist")]
    assert (ended.status, text_of(ended)) == (RunStatus.COMPLETED, ANSWER)
    assert ended.usage == Usage(20, 11, 31)
    assert ended.tail == "run_123/msg_001"


async def test_text_that_is_taken_back_while_it_is_polled_is_heard_again(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, heard = await followed(upstream, replay, "polled_anew")
    assert heard == [TextDelta(0, "Hello! What"), Restarted(), TextDelta(0, "Hello")]
    assert text_of(ended) == ANSWER


async def test_a_server_that_does_not_say_whose_a_message_is_is_understood(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, _ = await followed(upstream, replay, "polled_sloppy", tail=TAIL)
    assert text_of(ended) == ANSWER


async def test_a_run_may_say_nothing_until_it_has_ended(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, heard = await followed(upstream, replay, "polled_silent")
    assert heard == []
    assert text_of(ended) == ANSWER


async def test_a_run_that_is_gone_has_left_its_thread_in_doubt(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    with pytest.raises(ThreadLostError):
        await followed(upstream, replay, "polled_gone")


async def test_a_run_of_unknown_name_is_found_after_the_threads_tail(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, heard = await followed(upstream, replay, "found", response_id=None, tail=TAIL)
    # Its name is told: whoever cancels it needs it.
    assert heard == [Started(RUN)]
    assert (ended.status, text_of(ended)) == (RunStatus.COMPLETED, ANSWER)


async def test_a_request_that_never_arrived_came_to_nothing(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    ended, heard = await followed(upstream, replay, "never_arrived", response_id=None, tail=TAIL)
    assert ended is None
    assert heard == []
    assert (await followed(upstream, replay, "never_arrived", response_id="resp_1", tail=TAIL))[
        0
    ] is None


@pytest.mark.parametrize("name", ["half_written", "made_way", "tail_gone"])
async def test_turns_that_nobody_answers_are_not_told_twice(
    upstream: AssistantsUpstream, replay: Replay, name: str
) -> None:
    with pytest.raises(ThreadLostError):
        await followed(upstream, replay, name, response_id=None, tail=TAIL)


async def test_nothing_is_known_of_what_has_no_thread(upstream: AssistantsUpstream) -> None:
    nothing = await upstream.outcome(
        response_id=None, thread_id=None, tail=None, listen=lambda _: None
    )
    assert nothing is None


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("cancel", RunStatus.CANCELLED, "Hello! How"),
        ("cancel_too_late", RunStatus.COMPLETED, ANSWER),
    ],
)
async def test_a_cancelled_run_tells_how_it_ended(
    upstream: AssistantsUpstream, replay: Replay, name: str, status: RunStatus, text: str
) -> None:
    replay.play(name)
    ended = await upstream.cancel(RUN)
    assert ended is not None
    assert (ended.status, text_of(ended)) == (status, text)
    assert ended.usage == Usage(20, 11, 31)


async def test_what_is_unknown_can_not_be_cancelled(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    replay.play("cancel_unknown")
    assert await upstream.cancel(RUN) is None
    assert await upstream.cancel("resp_of_another_dialect") is None


async def test_a_thread_is_opened_with_as_much_as_a_call_may_hold_and_then_filled(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    replay.play("open_many")
    opened = await upstream.open_thread(HISTORY)
    assert opened is not None
    assert (opened.thread_id, opened.tail) == (THREAD, "/msg_034")
    replay.play("open_empty")
    empty = await upstream.open_thread([])
    assert empty is not None
    assert (empty.thread_id, empty.tail) == (THREAD, "/")


async def test_a_thread_that_can_not_be_filled_is_deleted(
    upstream: AssistantsUpstream, replay: Replay
) -> None:
    replay.play("open_refused")
    with pytest.raises(UpstreamError):
        await upstream.open_thread(HISTORY)


@pytest.mark.parametrize("name", ["delete", "delete_gone"])
async def test_a_thread_is_deleted_whether_or_not_it_is_there(
    upstream: AssistantsUpstream, replay: Replay, name: str
) -> None:
    replay.play(name)
    await upstream.delete_thread(THREAD)
