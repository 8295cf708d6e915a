"""Threads as the Assistants API has them: what it can do with a session that `/v1` does not offer.

A thread is a session. Its runs name their assistant, and may vary it; messages of either role are
put into it while no run is under way; single messages are deleted, and metadata is replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from app.domain import ids
from app.domain.errors import (
    InvalidRequestError,
    NotFoundError,
    NothingToAnswerError,
    SessionBusyError,
)
from app.domain.events import MessageChanged, RunChanged
from app.domain.models import (
    Assistant,
    AssistantConfig,
    JsonObject,
    Message,
    MessageStatus,
    Part,
    Role,
    Run,
    RunStatus,
    TutoringSession,
    User,
)
from app.domain.steps import RunStep
from app.ports import Append, Database, Page, PageQuery, ThreadMark, UnitOfWork
from app.services.assistants import AssistantService
from app.services.files import use_files
from app.services.relay import NewRun, Relay
from app.services.runs import OnActiveRun, RunService, append, enqueue, open_session
from app.services.sessions import owned

MAX_INSTRUCTIONS: Final = 256_000
NO_ASSISTANT: Final = "There is no such assistant."


@dataclass(frozen=True, slots=True)
class Said:
    """A message to be put into a thread."""

    role: Role
    content: Sequence[Part]
    metadata: JsonObject = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Order:
    """A run that is wanted."""

    assistant_id: str
    messages: Sequence[Said] = ()
    """Put into the thread before it."""
    changes: JsonObject = field(default_factory=dict[str, Any])
    """Fields of the assistant's configuration that are others for this run, by name."""
    more_instructions: str | None = None
    metadata: JsonObject = field(default_factory=dict[str, Any])
    wants_stream: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and the run that wrote it, if one did."""

    message: Message
    run: Run | None


class ThreadService:
    """Threads of one caller at a time."""

    def __init__(
        self, database: Database, relay: Relay, runs: RunService, assistants: AssistantService
    ) -> None:
        self._database = database
        self._relay = relay
        self._runs = runs
        self._assistants = assistants

    async def open(
        self, user: User, messages: Sequence[Said], metadata: JsonObject
    ) -> TutoringSession:
        """Open a session that holds messages already."""
        async with self._database.transaction() as uow:
            session = await _open(uow, user, metadata)
            if messages:
                await _use_files(uow, user, session, messages)
                await append(uow, session, *(_draft(session, said) for said in messages))
        return session

    async def open_and_start(
        self, user: User, messages: Sequence[Said], metadata: JsonObject, order: Order
    ) -> tuple[TutoringSession, NewRun]:
        """Open a session that holds messages, and enqueue its first run, or do neither.

        Raises:
            DomainError: Any that `start` raises.
        """
        async with self._database.transaction() as uow:
            session = await _open(uow, user, metadata)
            whole = replace(order, messages=[*messages, *order.messages])
            return session, await self._start(uow, user, session, whole)

    async def start(self, user: User, session_id: str, order: Order) -> NewRun:
        """Put messages into a thread and enqueue a run over it, or do neither.

        Raises:
            NotFoundError: There is no such session or assistant that the user may use.
            SessionEndedError: The session takes no new messages.
            SessionBusyError: A run is unfinished.
            NothingToAnswerError: The user has not said anything yet.
            ForbiddenError: Users may not vary an assistant here.
            InvalidRequestError: The instructions are too long together.
            TooManyRunsError, TooManyStreamsError: As `RunService.post`.
        """
        async with self._database.transaction() as uow:
            session = await open_session(uow, user, session_id)
            return await self._start(uow, user, session, order)

    async def _start(
        self, uow: UnitOfWork, user: User, session: TutoringSession, order: Order
    ) -> NewRun:
        if order.wants_stream:
            self._relay.check_room(user)
        await self._runs.admit(uow, session, OnActiveRun.REJECT)
        # Until the run's row stands, nobody may delete the version that it names.
        assistant = await uow.assistants.get(user, order.assistant_id, lock="use")
        if assistant is None:
            raise NotFoundError(NO_ASSISTANT)
        config = _varied(assistant.config, order)
        await _use_files(uow, user, session, order.messages)
        asked = [_draft(session, said) for said in order.messages]
        run = Run(
            id=ids.new_id(ids.RUN),
            session_id=session.id,
            assistant_id=assistant.id,
            assistant_version=await self._version(uow, assistant, config),
            model=config.model,
            status=RunStatus.QUEUED,
            attempts=0,
            input_message_id=await _question(uow, session, asked),
            output_message_id=None,
            metadata=order.metadata,
        )
        return await enqueue(uow, session, [], asked, RunChanged(run))

    async def _version(
        self, uow: UnitOfWork, assistant: Assistant, config: AssistantConfig
    ) -> int:
        """Return the version that the run keeps: the listed one, or one for runs like it."""
        if config == assistant.config:
            return assistant.version
        self._assistants.check_own_allowed()
        return await uow.assistants.vary(assistant, config)

    async def say(self, user: User, session_id: str, said: Said) -> Message:
        """Put a message into a thread that no run is at work on.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
            SessionEndedError: It takes no new messages.
            SessionBusyError: A run is unfinished.
        """
        async with self._database.transaction() as uow:
            session = await open_session(uow, user, session_id)
            await _check_idle(uow, session)
            await _use_files(uow, user, session, [said])
            draft = _draft(session, said)
            await append(uow, session, draft)
        return draft.message

    async def messages(
        self, user: User, session_id: str, page: PageQuery, *, run_id: str | None
    ) -> Page[Turn]:
        """Return part of the transcript, with the runs that wrote it.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            await owned(uow, user, session_id)
            found = await uow.messages.list(session_id, page, run_id=run_id)
            turns = await _with_runs(uow, session_id, found.items)
        return Page(turns, found.has_more)

    async def message(self, user: User, session_id: str, message_id: str) -> Turn:
        """Return one message.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            await owned(uow, user, session_id)
            return await _turn(uow, session_id, message_id)

    async def answer(
        self, user: User, session_id: str, run_id: str
    ) -> tuple[Run, Message | None, Sequence[RunStep]]:
        """Return a run, its message so far (None: not begun, or deleted), and its steps.

        Raises:
            NotFoundError: There is no such run, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            run = await uow.runs.get(user.id, session_id, run_id)
            if run is None:
                raise NotFoundError
            steps = await uow.runs.steps(run)
            if run.output_message_id is None:
                return run, None, steps
            return run, await uow.messages.get(session_id, run.output_message_id), steps

    async def annotate_message(
        self, user: User, session_id: str, message_id: str, metadata: JsonObject
    ) -> Turn:
        """Replace a message's metadata.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            await owned(uow, user, session_id, for_update=True)
            await uow.messages.annotate(session_id, message_id, metadata)
            return await _turn(uow, session_id, message_id)

    async def annotate_run(
        self, user: User, session_id: str, run_id: str, metadata: JsonObject
    ) -> Run:
        """Replace a run's metadata.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            await owned(uow, user, session_id, for_update=True)
            await uow.runs.annotate(session_id, run_id, metadata)
            found = await uow.runs.get(user.id, session_id, run_id)
        if found is None:
            raise NotFoundError
        return found

    async def delete_message(self, user: User, session_id: str, message_id: str) -> None:
        """Delete a message from the transcript and the log, and from what the tutor is told.

        The upstream's thread holds it: the next run opens another one from what is left, and
        this one is deleted there.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            SessionBusyError: A run is unfinished.
        """
        async with self._database.transaction() as uow:
            session = await owned(uow, user, session_id, for_update=True)
            found = (await _turn(uow, session_id, message_id)).message
            await _check_idle(uow, session)
            await uow.messages.remove(found)
            forgotten = ThreadMark(None, 0, None)
            await uow.log.append([Append(session_id, [], thread=forgotten)])


async def _open(uow: UnitOfWork, user: User, metadata: JsonObject) -> TutoringSession:
    assistant = await uow.assistants.default()
    made = await uow.sessions.add(user.id, assistant.id, None, metadata)
    # Locked like any other, with its user: runs that wait are counted there.
    return await open_session(uow, user, made.id)


async def _check_idle(uow: UnitOfWork, session: TutoringSession) -> None:
    busy = session.active_run_id or (await uow.runs.admission(session)).oldest_waiting
    if busy is not None:
        raise SessionBusyError(busy)


async def _use_files(
    uow: UnitOfWork, user: User, session: TutoringSession, messages: Sequence[Said]
) -> None:
    content = [part for said in messages for part in said.content]
    await use_files(uow, user, session.id, content)


def _draft(session: TutoringSession, said: Said) -> MessageChanged:
    message = Message(
        id=ids.new_id(ids.MESSAGE),
        session_id=session.id,
        run_id=None,
        role=said.role,
        status=MessageStatus.COMPLETED,
        content=said.content,
        metadata=said.metadata,
    )
    return MessageChanged(message, run_id=None, is_new=True)


async def _question(
    uow: UnitOfWork, session: TutoringSession, asked: Sequence[MessageChanged]
) -> str:
    """Return the id of the newest message of the user."""
    for draft in reversed(asked):
        if draft.message.role is Role.USER:
            return draft.message.id
    last = await uow.messages.last_turn(session.id)
    if last is None:
        raise NothingToAnswerError
    return last.id


def _varied(config: AssistantConfig, order: Order) -> AssistantConfig:
    varied = replace(config, **order.changes)
    if order.more_instructions:
        parts = [part for part in (varied.instructions, order.more_instructions) if part]
        varied = replace(varied, instructions="\n\n".join(parts))
    if len(varied.instructions or "") > MAX_INSTRUCTIONS:
        raise InvalidRequestError("The run's instructions are too long together.")
    return varied


async def _turn(uow: UnitOfWork, session_id: str, message_id: str) -> Turn:
    found = await uow.messages.get(session_id, message_id)
    if found is None:
        raise NotFoundError
    return (await _with_runs(uow, session_id, [found]))[0]


async def _with_runs(
    uow: UnitOfWork, session_id: str, messages: Sequence[Message]
) -> Sequence[Turn]:
    wanted = {message.run_id for message in messages if message.run_id is not None}
    runs = await uow.runs.of(session_id, wanted)
    return [Turn(message, runs.get(message.run_id or "")) for message in messages]
