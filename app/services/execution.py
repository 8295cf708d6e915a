"""Execute a claimed run: ask the upstream, relay what it says, settle what became of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from app.domain.errors import FencedError, UpstreamError
from app.domain.events import RunChanged
from app.domain.models import (
    AssistantConfig,
    Failure,
    Message,
    MessageStatus,
    Run,
    RunStatus,
)
from app.domain.steps import RunStep
from app.ports import Append, Claim, Database, Ended, ThreadMark, Tools, Upstream
from app.services.answer import Answer
from app.services.attempts import AttemptCounter, Attempts, total
from app.services.cancelling import Canceller
from app.services.conversation import Conversation
from app.services.patience import patiently
from app.services.publisher import Publisher
from app.services.resources import Workplace
from app.services.rounds import converse
from app.services.steps import Steps

log = logging.getLogger(__name__)

CACHED_CONFIGS: Final = 200

_Loaded = tuple[Message | None, Sequence[RunStep], AssistantConfig]
"""What is shown of the answer, the steps taken, and the tutor."""

_CUT_SHORT: Final = frozenset({RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.EXPIRED})
"""Ends whose account holds less than was said: what was shown stays."""
_WHOLE: Final = frozenset({RunStatus.COMPLETED, RunStatus.INCOMPLETE})
"""Ends of the upstream's that a cancellation which comes too late loses to."""
EXPIRED: Final = Failure("run_timeout", "The answer took too long.")
UNANSWERED: Final = "The tutor could not answer."
INTERNAL: Final = Failure("internal_error", "Something went wrong on our side.")


class Stop(StrEnum):
    """Why an execution is stopped from outside."""

    CANCELLED = "cancelled"
    """Its user cancelled the run."""
    ABANDONED = "abandoned"
    """The run is handed over, or was taken over: nothing is settled here."""


class Execution:
    """A handle on one run that is being executed."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.deadline = time.monotonic() + claim.remaining.total_seconds()
        self.reason: Stop | None = None
        self._scope: asyncio.Timeout | None = None

    def stop(self, reason: Stop) -> None:
        """Interrupt the upstream call; what was shown is kept and settled."""
        self.reason = self.reason or reason
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def scope(self) -> AsyncGenerator[None]:
        """Bound the upstream's work by the run's deadline, and by `stop`."""
        seconds = 0.0 if self.reason else max(0.0, self.deadline - time.monotonic())
        self._scope = asyncio.timeout(seconds)
        try:
            async with self._scope:
                yield
        finally:
            # Whoever stops it now is too late: the run is being settled.
            self._scope = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run is to be settled."""

    status: RunStatus
    error: Failure | None = None
    ended: Ended | None = None
    is_thread_sound: bool = False


class Executor:
    """Executes runs that this worker holds."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        database: Database,
        upstream: Upstream,
        publisher: Publisher,
        tools: Tools,
        worker_id: str,
        *,
        max_attempts: int,
    ) -> None:
        self._database = database
        self._upstream = upstream
        self._canceller = Canceller(upstream)
        self._publisher = publisher
        self._tools = tools
        self._worker_id = worker_id
        self._max_attempts = max_attempts
        self._configs: dict[tuple[str, int], AssistantConfig] = {}
        """Versions never change, so those seen are remembered."""

    async def execute(self, execution: Execution) -> None:
        """Bring a claimed run to its end, unless it is stopped or lost on the way."""
        work = await self._begin(execution)
        try:
            outcome = await self._attend(execution, work)
            if outcome is not None and outcome.status is RunStatus.REQUIRES_ACTION:
                outcome = await self._wait_for_client(work, outcome)
                if outcome is None:
                    return
            if outcome is not None:
                await self._settle(work, outcome)
                return
            await work.log.flush()
        except FencedError:
            log.info("run lost to another worker", extra={"run_id": work.claim.run.id})
        await self._leave(work)

    async def _begin(self, execution: Execution) -> Attempts:
        claim = execution.claim
        run_log = self._publisher.open(claim)
        shown, known, config = await self._load(claim)
        steps = Steps(run_log, claim.run, known)
        said = [part for step in steps.rounds for part in step.said]
        return Attempts(
            claim,
            replace(config, tools=self._tools.complete(config.tools)),
            Answer(run_log, claim.run, shown, said),
            steps,
            Conversation(self._database, self._upstream, claim),
            Workplace(self._database, config),
            run_log,
            self._upstream,
            AttemptCounter(self._database, self._worker_id, claim, self._max_attempts),
            execution.deadline,
            self._tools.names(config.tools),
            claim.response_id,
        )

    async def _leave(self, work: Attempts) -> None:
        """Let go of a run: another worker follows what goes on, unless its session was deleted."""
        if work.response_id is None or not self._upstream.is_background:
            return
        if await patiently(lambda: self._is_gone(work.claim.run.session_id)):
            await self._canceller.cancel(work.response_id)

    async def _is_gone(self, session_id: str) -> bool:
        async with self._database.autocommit() as uow:
            return bool(await uow.log.gone([session_id]))

    async def _load(self, claim: Claim) -> _Loaded:
        """Return what is known of the run already, and the tutor's configuration."""
        run = claim.run
        version = (run.assistant_id, run.assistant_version)
        config = self._configs.get(version)
        if config is not None and run.attempts == 1 and not claim.is_takeover:
            return None, (), config
        loaded = await patiently(lambda: self._read(run))
        if len(self._configs) >= CACHED_CONFIGS:
            self._configs.clear()
        self._configs[version] = loaded[-1]
        return loaded

    async def _read(self, run: Run) -> _Loaded:
        async with self._database.snapshot() as uow:
            shown = None
            if run.output_message_id is not None:
                shown = await uow.messages.get(run.session_id, run.output_message_id)
            steps = await uow.runs.steps(run)
            config = await uow.assistants.config(run.assistant_id, run.assistant_version)
        return shown, steps, config

    async def _attend(self, execution: Execution, work: Attempts) -> _Outcome | None:
        """Run the upstream's part inside its bounds; None when it is not ours to settle."""
        if execution.claim.run.status is RunStatus.CANCELLING:
            # Its worker is gone: nothing is generated again, and nobody else stops what goes on.
            return await self._cut_short(work, RunStatus.CANCELLED)
        try:
            async with execution.scope():
                return _judge(await converse(work, self._tools))
        except TimeoutError:
            if execution.reason is Stop.ABANDONED:
                return None
            is_cancelled = execution.reason is Stop.CANCELLED
            status = RunStatus.CANCELLED if is_cancelled else RunStatus.EXPIRED
            return await self._cut_short(work, status)
        except UpstreamError as failure:
            status, error = RunStatus.FAILED, Failure(failure.code, failure.detail)
        except FencedError:
            raise
        except Exception:
            log.exception("a run failed on our side", extra={"run_id": execution.claim.run.id})
            status, error = RunStatus.FAILED, INTERNAL
        return _Outcome(status, error, is_thread_sound=not work.in_doubt)

    async def _cut_short(self, work: Attempts, status: RunStatus) -> _Outcome:
        """Stop what goes on upstream; an answer that was finished before that is kept."""
        error = EXPIRED if status is RunStatus.EXPIRED else None
        told = None
        # A foreground generation of our own ended with its connection.
        outlives = self._upstream.is_background or work.claim.is_takeover
        if work.response_id is not None and outlives:
            told = await self._canceller.cancel(work.response_id)
        if told is not None:
            if told.status in _WHOLE:
                return _judge(told)
            work.spent = total(work.spent, told.usage)
        is_sound = not work.in_doubt and not work.claim.is_takeover
        return _Outcome(status, error, is_thread_sound=is_sound)

    async def _wait_for_client(self, work: Attempts, outcome: _Outcome) -> _Outcome | None:
        """Let the run wait for its client, unless that has cancelled it: then return its end.

        Other ends win over a cancellation that comes as they are written; this one would make
        it forgotten.
        """
        if await patiently(lambda: self._hand_to_client(work, _settled(work, outcome))):
            return None
        return await self._cut_short(work, RunStatus.CANCELLED)

    async def _hand_to_client(self, work: Attempts, waiting: Run) -> bool:
        claim = work.claim
        append = Append(waiting.session_id, [], run_id=waiting.id, fence=claim.fence)
        async with self._database.transaction() as uow:
            # Locks the session: nobody cancels while it is looked at.
            if await uow.log.append([append]):
                raise FencedError
            present = (await uow.runs.of(waiting.session_id, [waiting.id]))[waiting.id]
            if present.status is RunStatus.IN_PROGRESS:
                append.drafts = [RunChanged(waiting)]
                await uow.log.append([append])
            # A commit that was in doubt may have done it already.
            return present.status is not RunStatus.CANCELLING

    async def _settle(self, work: Attempts, outcome: _Outcome) -> None:
        """Write the end: the message first, then the run, then what the thread holds."""
        run, answer = work.claim.run, work.answer
        ended = await work.workplace.ended(outcome.ended)
        if ended is not None and ended.status not in _CUT_SHORT:
            answer.agree(ended.content)
        is_whole = outcome.status is RunStatus.COMPLETED
        status = MessageStatus.COMPLETED if is_whole else MessageStatus.INCOMPLETE
        drafts = work.steps.end(outcome.status)
        drafts += answer.end(status, ended.content if ended else None)
        work.log.append(*drafts, RunChanged(_settled(work, outcome)))
        if ended is not None and outcome.is_thread_sound:
            thread = work.conversation.thread
            if thread is not None:
                work.log.mark_thread(ThreadMark(thread.thread_id, run.turn, ended.tail))
        elif not outcome.is_thread_sound:
            work.log.mark_thread(ThreadMark(None, 0, None))
        await work.log.flush()


def _settled(work: Attempts, outcome: _Outcome) -> Run:
    run, ended = work.claim.run, outcome.ended
    return replace(
        run,
        status=outcome.status,
        attempts=work.counter.made,
        output_message_id=work.answer.message_id,
        last_error=outcome.error,
        incomplete_reason=ended.incomplete_reason if ended else None,
        usage=total(run.usage, work.spent, ended.usage if ended else None),
        tool_calls=ended.tool_calls if ended else (),
    )


def _judge(ended: Ended) -> _Outcome:
    error = EXPIRED if ended.status is RunStatus.EXPIRED else None
    if ended.status is RunStatus.FAILED:
        error = Failure(ended.error_code or "upstream_error", UNANSWERED)
    # The upstream keeps a turn only once it is complete.
    sound = ended.status is RunStatus.COMPLETED
    return _Outcome(ended.status, error, ended, is_thread_sound=sound)
