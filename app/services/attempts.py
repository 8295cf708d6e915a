"""Generations until one comes to an end: each counted before it is asked for, none asked blindly.

After a generation whose end was not seen, the upstream is asked what became of it before
another one is paid for. One that goes on without us is followed to its end instead.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from app.domain.errors import (
    FencedError,
    ThreadBusyError,
    ThreadLostError,
    UpstreamError,
)
from app.domain.models import AssistantConfig, RunStatus, ToolCall, Usage
from app.ports import (
    Claim,
    Database,
    Ended,
    Generation,
    Restarted,
    Started,
    Step,
    TextDelta,
    Upstream,
    UpstreamEvent,
)
from app.services.answer import Answer
from app.services.conversation import Conversation
from app.services.patience import patiently
from app.services.publisher import RunLog
from app.services.resources import Workplace
from app.services.steps import Steps

BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 15.0
MAX_LOST_THREADS: Final = 3
MAX_ASKED: Final = 7
"""How often the upstream is asked what became of a generation: with the backoff, half a minute.

A background one is paid for and goes on: it is asked for until the run's deadline.
"""


class AttemptCounter:
    """Records each attempt on the run before it is made."""

    def __init__(
        self, database: Database, worker_id: str, claim: Claim, max_attempts: int
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._run_id = claim.run.id
        self._handovers = claim.handovers
        """Being handed over in order is not the run's fault."""
        self._max_attempts = max_attempts
        self.rounds = 1
        """How often the tutor has to be asked: again whenever functions were called."""
        self.made = claim.run.attempts

    @property
    def has_more(self) -> bool:
        """Whether the run may cost another generation."""
        return self.made < self._max_attempts * self.rounds + self._handovers

    async def count(self) -> None:
        """Record another attempt.

        Raises:
            FencedError: The run was taken over, or is being cancelled.
        """
        self.made = await patiently(self._count)

    async def _count(self) -> int:
        async with self._database.autocommit(writes=True) as uow:
            made = await uow.queue.count_attempt(self._run_id, self._worker_id)
        if made is None:
            raise FencedError
        return made


@dataclass(slots=True)
class Attempts:
    """One run's dealings with the upstream."""

    claim: Claim
    config: AssistantConfig
    answer: Answer
    steps: Steps
    conversation: Conversation
    workplace: Workplace
    log: RunLog
    upstream: Upstream
    counter: AttemptCounter
    deadline: float
    """When the run's time is up, by this process's monotonic clock."""
    own_tools: frozenset[str] = frozenset()
    """The functions that the server calls itself."""
    response_id: str | None = None
    """The upstream's name for the last generation, once it is known."""
    spent: Usage | None = None
    """What attempts cost that came to nothing, as far as the upstream told."""
    _is_unaccounted: bool = False
    """Whether a generation may still go on although the upstream did not know of it."""
    _is_open: bool = False
    """Whether the end of the last generation was not seen."""
    _has_called: bool = False
    """Whether the thread holds calls of this run."""
    _asked: set[str] = field(default_factory=set[str])
    """The calls of earlier rounds."""
    _delay_s: float = BACKOFF_S
    _lost_threads: int = 0

    @property
    def in_doubt(self) -> bool:
        """Whether the thread may hold, or still get, a turn whose end was not seen.

        One that ends with calls is only of use to the run that answers them.
        """
        return self._is_open or self._is_unaccounted or self._has_called

    def __post_init__(self) -> None:
        self._count_rounds()

    def _count_rounds(self) -> None:
        self.counter.rounds = 1 + len(self.steps.rounds)
        self._asked = {call.id for step in self.steps.rounds for call in step.calls}
        self._has_called = self._has_called or bool(self._asked)

    async def generate(self) -> Ended:
        """Return how the upstream says the generation ended that this run was claimed for.

        Raises:
            UpstreamError: It can't answer, or may not be asked again.
            FencedError: The run is not this worker's any more.
        """
        await self.workplace.look()
        if self.claim.is_takeover:
            self.response_id = self.claim.response_id
            ended = await self._recover()
            if ended is not None and not self._may_pass(ended):
                return ended
            if not self.counter.has_more:
                raise UpstreamError(code="upstream_interrupted")
            self._is_unaccounted = ended is None
            await self._repeat("resumed")
        return await self._until_an_end()

    async def close_round(self, ended: Ended, calls: Sequence[ToolCall]) -> None:
        """Store what was said and called, with what is known of the outputs.

        Raises:
            FencedError: The run is not this worker's any more.
        """
        self._has_called = True
        said = self.answer.close_round(ended.content)
        self.steps.asked(calls, said, self.response_id)
        mark = self.conversation.advance(ended.tail)
        if mark is not None:
            self.log.mark_thread(mark)
        await self.log.flush()
        self._count_rounds()

    async def go_on(self) -> Ended:
        """Return how the generation ended that was given the outputs of the functions.

        Raises:
            UpstreamError, FencedError: As `generate`.
        """
        await self.counter.count()
        self.response_id = None
        self._delay_s, self._lost_threads = BACKOFF_S, 0
        return await self._until_an_end()

    async def _until_an_end(self) -> Ended:
        while True:
            try:
                return await self._once()
            except UpstreamError as error:
                ended = await self._after(error)
                if ended is not None:
                    return ended

    async def _after(self, error: UpstreamError) -> Ended | None:
        """Return what the upstream made after all, or None when it may be asked again."""
        self._is_open = error.generated
        if isinstance(error, ThreadBusyError):
            # Nothing was generated: waiting costs time and no attempt.
            await self._wait(error)
            # It may be held by what was taken for lost: its answer is ours.
            return await self._recover() if self._is_unaccounted else None
        if isinstance(error, ThreadLostError):
            self.conversation.forget_thread()
            self._lost_threads += 1
            if self._lost_threads > MAX_LOST_THREADS:
                raise error
            return None
        if error.generated:
            ended = await self._recover()
            if ended is not None:
                if not self._may_pass(ended):
                    return ended
                error = _failed(ended)
            self._is_unaccounted = ended is None
        if not error.retryable or not self.counter.has_more:
            raise error
        await self._wait(error)
        await self._repeat("retried")
        return None

    async def _wait(self, error: UpstreamError) -> None:
        """Wait, doubling and jittered, or as long as the upstream asks."""
        jittered = self._delay_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        self._delay_s = min(MAX_BACKOFF_S, self._delay_s * 2)
        asked = (error.retry_after or timedelta()).total_seconds()
        if asked > self.deadline - time.monotonic():
            raise error
        await asyncio.sleep(max(jittered, asked))

    async def _repeat(self, reason: str) -> None:
        # The count clears the last generation's name, which must not be stored after it.
        await self.log.flush()
        await self.counter.count()
        self.response_id = None
        self.steps.withdraw()
        self.answer.withdraw(reason)

    async def _once(self) -> Ended:
        rounds = self.steps.rounds
        prepared = await self.conversation.prepare(rounds)
        thread, answered = prepared.thread, prepared.round
        config = self.config
        if rounds and config.tool_choice not in (None, "none"):
            # It was forced to call, and did: forced again, it would never answer.
            config = replace(config, tool_choice=None)
        generation = Generation(
            thread_id=thread.thread_id if thread else None,
            turns=prepared.turns,
            model=self.claim.run.model,
            config=config,
            safety_id=self.claim.safety_id,
            outputs=answered.calls if answered else (),
            asked_by=answered.response_id if answered else None,
            tail=thread.tail if thread else None,
            resources=await self.workplace.look(),
        )
        self._is_open = True
        return self._checked(await self.upstream.generate(generation, self._hear))

    def _hear(self, event: UpstreamEvent) -> None:
        if self.log.is_fenced:
            raise FencedError
        match event:
            case TextDelta(part, text, kind):
                self.answer.grow(part, text, kind)
            case Restarted():
                self.answer.hear_again()
            case Started(response_id):
                self.response_id = response_id
                self.log.note_response(response_id, is_urgent=self.upstream.is_background)
            case Step():
                self.steps.hear(self.workplace.step(event), self.response_id)

    def _hear_again(self, event: UpstreamEvent) -> None:
        """Listen to a generation that was heard before, in part."""
        self._hear(event)
        if isinstance(event, TextDelta) and not self.answer.is_repeated:
            # It goes on: the next cut is another trouble.
            self._delay_s = BACKOFF_S

    def _checked(self, ended: Ended) -> Ended:
        """Let a failure that may pass be tried again."""
        if self._may_pass(ended):
            raise _failed(ended)
        return ended

    def _may_pass(self, ended: Ended) -> bool:
        """Tell whether another attempt is due; its thread is a new one."""
        if ended.status is not RunStatus.FAILED or not ended.retryable:
            return False
        if self.counter.has_more:
            self.conversation.forget_thread()
            self.spent = total(self.spent, ended.usage)
            self.response_id = None  # It is accounted for.
        return self.counter.has_more

    async def _recover(self) -> Ended | None:
        """Learn what became of the last generation; None when it has to be repeated.

        Raises:
            UpstreamError: The upstream does not say, asked more than once.
        """
        self._is_open = True
        ended = None
        for asked in itertools.count(1):
            try:
                ended = await self._outcome()
            except ThreadLostError:
                # Gone, or left with half a turn: a new thread is filled from the transcript.
                self.conversation.forget_thread()
            except UpstreamError as error:
                # It may be away for a moment, and the answer be there when it is back.
                is_last = asked >= MAX_ASKED and not self.upstream.is_background
                if is_last or not error.retryable:
                    raise
                await self._wait(error)
                continue
            break
        self._is_open = False
        return ended

    async def _outcome(self) -> Ended | None:
        thread = self.conversation.thread
        while True:
            self.answer.hear_again()
            ended = await self.upstream.outcome(
                response_id=self.response_id,
                thread_id=thread.thread_id if thread else None,
                tail=thread.tail if thread else None,
                listen=self._hear_again,
            )
            if ended is None or self.response_id is None or not self._is_earlier(ended):
                return ended
            # Its name was stored, and that of this round's generation was not, if there is one.
            self.response_id = None

    def _is_earlier(self, ended: Ended) -> bool:
        """Tell whether this is the end of an earlier round: its calls have been answered."""
        calls = {call.id for call in ended.tool_calls}
        return bool(calls) and calls <= self._asked


def _failed(ended: Ended) -> UpstreamError:
    return UpstreamError(code=ended.error_code, retryable=True)


def total(*usages: Usage | None) -> Usage | None:
    """Add up what is known; None if nothing is."""
    known = [usage for usage in usages if usage is not None]
    return sum(known[1:], known[0]) if known else None
