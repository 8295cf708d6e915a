"""Messages and runs as their owner sees them: post, answer again, poll, cancel."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from app.domain import ids
from app.domain.errors import (
    NotFoundError,
    NothingToAnswerError,
    RunEndedError,
    SessionBusyError,
    SessionEndedError,
    TooManyRunsError,
)
from app.domain.events import Draft, Event, MessageChanged, RunChanged
from app.domain.models import (
    JsonObject,
    Message,
    MessageStatus,
    Part,
    Role,
    Run,
    RunStatus,
    SessionStatus,
    TutoringSession,
    User,
)
from app.ports import Admission, Append, Database, Page, PageQuery, RequestKey, UnitOfWork
from app.services.crowd import Crowd
from app.services.files import use_files
from app.services.idempotency import first_answer, keep_answer
from app.services.relay import NewRun, Relay
from app.services.sessions import owned
from app.services.unheld import cut_short, thread_after
from app.services.users import Limits


class OnActiveRun(StrEnum):
    """What to do when the session has an unfinished run."""

    REJECT = "reject"
    ENQUEUE = "enqueue"
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class Posted:
    """What a POST is answered."""

    body: JsonObject
    """`{"message": …, "run": …}`, the same when the request is repeated."""
    new: NewRun | None = None
    """The run that this very request enqueued."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Messages, and the place in the log up to which they are told."""

    page: Page[Message]
    last_seq: int


class RunService:
    """Messages and runs of one caller at a time."""

    def __init__(self, database: Database, relay: Relay, limits: Limits, crowd: Crowd) -> None:
        self._database = database
        self._relay = relay
        self._limits = limits
        self._crowd = crowd

    async def post(  # noqa: PLR0913 - what a message may say
        self,
        user: User,
        session_id: str,
        content: list[Part],
        *,
        metadata: JsonObject,
        wants_run: bool,
        wants_stream: bool = False,
        on_active_run: OnActiveRun,
        request: RequestKey | None = None,
    ) -> Posted:
        """Store a message and, unless it is only to be stored, enqueue its answer.

        Message, run and their first events commit together.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
            SessionEndedError: The session takes no new messages.
            SessionBusyError: An unfinished run is in the way, and the caller won't wait.
            TooManyRunsError: Too many runs of the user wait already.
            QueueFullError: Too many runs of all users wait already.
            TooManyStreamsError: The answer could not be streamed.
            FileRefusedError: A file in it is not the user's, or no picture but meant as one.
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        message = Message(
            id=ids.new_id(ids.MESSAGE),
            session_id=session_id,
            run_id=None,
            role=Role.USER,
            status=MessageStatus.COMPLETED,
            content=content,
            metadata=metadata,
        )
        new = None
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return Posted(again)
            if wants_stream:
                self._relay.check_room(user)
            session = await open_session(uow, user, session_id)
            await use_files(uow, user, session_id, content)
            if wants_run:
                admission = await self.admit(uow, session, on_active_run)
                run = _new_run(session, admission, input_message_id=message.id, metadata={})
                asked = MessageChanged(message, run_id=run.id, is_new=True)
                queued = RunChanged(run, turn_of=asked)
                stopped = await _interrupted(uow, user, session, on_active_run)
                new = await enqueue(uow, session, stopped, [asked], queued)
            else:
                asked = MessageChanged(message, run_id=None, is_new=True)
                await append(uow, session, asked)
            body = {"message": asked.message.body(), "run": new and new.run.body()}
            await keep_answer(uow, user, request, body, session_id=session_id)
        return Posted(body, new)

    async def answer_again(
        self,
        user: User,
        session_id: str,
        *,
        metadata: JsonObject,
        on_active_run: OnActiveRun,
        request: RequestKey | None = None,
    ) -> JsonObject:
        """Enqueue another answer to the transcript as it stands; return the run's body.

        Raises:
            NothingToAnswerError: The user has not said anything yet.
            DomainError: Any other that `post` raises.
        """
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return again
            session = await open_session(uow, user, session_id)
            last = await uow.messages.last_turn(session_id)
            if last is None:
                raise NothingToAnswerError
            admission = await self.admit(uow, session, on_active_run)
            run = _new_run(session, admission, input_message_id=last.id, metadata=metadata)
            stopped = await _interrupted(uow, user, session, on_active_run)
            new = await enqueue(uow, session, stopped, [], RunChanged(run))
            return await keep_answer(uow, user, request, new.run.body(), session_id=session_id)

    async def admit(
        self, uow: UnitOfWork, session: TutoringSession, policy: OnActiveRun
    ) -> Admission:
        """Tell whether, and how, a session whose row is locked gets another run.

        Raises:
            SessionBusyError: An unfinished run is in the way, and the policy is not to wait.
            TooManyRunsError: Too many runs wait already.
        """
        found = await uow.runs.admission(session)
        if policy is OnActiveRun.REJECT:
            busy = session.active_run_id or found.oldest_waiting
            if busy is not None:
                raise SessionBusyError(busy)
        if found.waiting_in_session >= self._limits.queued_runs_per_session:
            raise TooManyRunsError("Too many runs are waiting in this session already.")
        if found.waiting_of_user >= self._limits.queued_runs:
            raise TooManyRunsError
        await self._crowd.admit(uow)
        return found

    async def messages(
        self, user: User, session_id: str, page: PageQuery, *, run_id: str | None
    ) -> Transcript:
        """Return part of the transcript, told up to `last_seq`.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            session = await owned(uow, user, session_id)
            found = await uow.messages.list(session_id, page, run_id=run_id)
        return Transcript(found, session.last_seq)

    async def message(self, user: User, session_id: str, message_id: str) -> Message:
        """Return one message.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            await owned(uow, user, session_id)
            found = await uow.messages.get(session_id, message_id)
        if found is None:
            raise NotFoundError
        return found

    async def list(self, user: User, session_id: str, page: PageQuery) -> Page[Run]:
        """Return runs of a session.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            await owned(uow, user, session_id)
            return await uow.runs.list(session_id, page)

    async def get(self, user: User, session_id: str, run_id: str) -> Run:
        """Return one run.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.autocommit() as uow:
            found = await uow.runs.get(user.id, session_id, run_id)
        if found is None:
            raise NotFoundError
        return found

    async def wait(
        self,
        user: User,
        session_id: str,
        run_id: str,
        *,
        known: RunStatus | None,
        within: timedelta,
    ) -> Run:
        """Return the run when its status is not `known`, needs somebody, or time is up.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        run = await self.get(user, session_id, run_id)
        known = known or run.status
        if _is_news(run, known):
            return run
        deadline = time.monotonic() + within.total_seconds()
        async with self._relay.watch(session_id) as changed:
            while not self._relay.is_closing:
                changed.clear()
                run = await self.get(user, session_id, run_id)
                left = deadline - time.monotonic()
                if _is_news(run, known) or left <= 0:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await changed.wait()
        return run

    async def cancel(self, user: User, session_id: str, run_id: str) -> Run:
        """Cancel a run: at once where nobody works on it, else its worker is told.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            RunEndedError: It has ended.
        """
        async with self._database.transaction() as uow:
            session = await owned(uow, user, session_id, for_update=True)
            run = await uow.runs.get(user.id, session_id, run_id)
            if run is None:
                raise NotFoundError
            if run.status.is_end:
                raise RunEndedError
            if run.status is RunStatus.CANCELLING:
                return run
            changed = RunChanged(_stopped(run))
            await append(uow, session, *await cut_short(uow, changed.run), changed)
            uow.wake_workers()
        return changed.run


def _stopped(run: Run) -> Run:
    """Cancel: where nobody works on it, that is all there is to do."""
    at_work = run.status is RunStatus.IN_PROGRESS
    return replace(run, status=RunStatus.CANCELLING if at_work else RunStatus.CANCELLED)


async def _interrupted(
    uow: UnitOfWork, user: User, session: TutoringSession, policy: OnActiveRun
) -> list[Draft]:
    """Cancel the session's active run, if that is the policy and it is not under way already."""
    if policy is not OnActiveRun.INTERRUPT or session.active_run_id is None:
        return []
    active = await uow.runs.get(user.id, session.id, session.active_run_id)
    if active is None or active.status is RunStatus.CANCELLING:
        return []
    stopped = _stopped(active)
    return [*await cut_short(uow, stopped), RunChanged(stopped)]


def _is_news(run: Run, known: RunStatus) -> bool:
    needs_somebody = run.status.is_end or run.status is RunStatus.REQUIRES_ACTION
    return run.status is not known or needs_somebody


async def open_session(uow: UnitOfWork, user: User, session_id: str) -> TutoringSession:
    """Lock the user's session, to say more in it.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
        SessionEndedError: It takes no new messages.
    """
    session = await owned(uow, user, session_id, for_update=True)
    if session.status is SessionStatus.ENDED:
        raise SessionEndedError
    return session


def _new_run(
    session: TutoringSession, admission: Admission, *, input_message_id: str, metadata: JsonObject
) -> Run:
    return Run(
        id=ids.new_id(ids.RUN),
        session_id=session.id,
        assistant_id=session.assistant_id,
        assistant_version=admission.assistant_version,
        model=admission.model,
        status=RunStatus.QUEUED,
        attempts=0,
        input_message_id=input_message_id,
        output_message_id=None,
        metadata=metadata,
    )


async def append(uow: UnitOfWork, session: TutoringSession, *drafts: Draft) -> list[Event]:
    """Append, once in a transaction, to the log of a session that was locked as it was read."""
    marks = [thread_after(draft.run) for draft in drafts if isinstance(draft, RunChanged)]
    thread = next((mark for mark in marks if mark is not None), None)
    whole = Append(session.id, list(drafts), last_seq=session.last_seq, thread=thread)
    if await uow.log.append([whole]):
        raise RuntimeError("the log of a locked session has moved")
    return whole.stamped


async def enqueue(
    uow: UnitOfWork,
    session: TutoringSession,
    stopped: Sequence[Draft],
    asked: Sequence[Draft],
    queued: RunChanged,
) -> NewRun:
    """Append what ends the active run, if that is wanted, and a new one; wake a worker."""
    events = await append(uow, session, *stopped, *asked, queued)
    uow.wake_workers(new_run=not stopped)
    return NewRun(queued.run, events)
