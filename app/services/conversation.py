"""What the upstream is told: the turns that its thread lacks, or a new thread with all of them."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.domain.errors import FencedError
from app.domain.models import Message, Part, Role
from app.domain.steps import RunStep
from app.ports import Attached, Calls, Claim, Database, Thread, ThreadMark, Turn, Upstream
from app.services.patience import patiently

FRESH_S: Final = 1.0
"""What was read longer ago may have been read before a lease ran out."""


GONE_FILE: Final = "[A file that was here has been deleted.]"
"""What the tutor is told instead of it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A thread, and what is to be said in it next."""

    thread: Thread | None
    turns: Sequence[Turn | Calls]
    round: RunStep | None = None
    """Calls that the thread ends with, answered: only the outputs are to be sent."""


class Conversation:
    """One run's view of its session's conversation."""

    def __init__(self, database: Database, upstream: Upstream, claim: Claim) -> None:
        self._database = database
        self._upstream = upstream
        self._claim = claim
        self.thread: Thread | None = claim.thread if claim.thread.thread_id else None

    def forget_thread(self) -> None:
        """Give the upstream's thread up: it is lost, or its content is in doubt."""
        self.thread = None

    def advance(self, tail: str | None) -> ThreadMark | None:
        """Take note that the thread holds this run's question, and calls that end with a tail.

        Returns what is to be stored of it; None where the upstream keeps no threads.
        """
        if self.thread is None or self.thread.thread_id is None:
            return None
        turn = self._claim.run.turn
        self.thread = Thread(self.thread.thread_id, turn, tail)
        return ThreadMark(self.thread.thread_id, turn, tail)

    async def prepare(self, rounds: Sequence[RunStep] = ()) -> Prepared:
        """Return the thread and what it lacks, opening a new thread if need be.

        `rounds` are this run's calls of functions so far, all answered.

        Raises:
            FencedError: The run was taken over meanwhile.
            UpstreamError: No thread could be opened.
        """
        began = time.monotonic()
        prepared = await self._prepare(rounds)
        if time.monotonic() - began > FRESH_S:
            # This process may have been frozen: whose run it is must be asked again, or a
            # question could be sent a second time, behind the answer that another holder got.
            prepared = await self._prepare(rounds)
        return prepared

    async def _prepare(self, rounds: Sequence[RunStep]) -> Prepared:
        called = _called(rounds)
        if self.thread is not None:
            if rounds and self.thread.turn >= self._claim.run.turn:
                if not await patiently(self._is_held):
                    raise FencedError
                return Prepared(self.thread, (), rounds[-1])
            missing = await self._turns(after=self.thread.turn)
            if missing:
                return Prepared(self.thread, [*await self._said(missing), *called])
            # Everything was answered: another answer to the last question needs a thread that
            # ends before it.
        everything = await self._turns(after=0)
        if not everything:
            raise FencedError
        asked = len(everything)
        while asked and everything[asked - 1].run_id is None:
            asked -= 1
        history, question = everything[:asked], everything[asked:]
        opened = await self._upstream.open_thread(await self._said(history))
        if opened is None:
            return Prepared(None, [*await self._said(everything), *called])
        turn = history[-1].turn if history else 0
        thread = self.thread = Thread(opened.thread_id, turn, opened.tail)
        if not await patiently(lambda: self._record(thread)):
            raise FencedError
        return Prepared(thread, [*await self._said(question), *called])

    async def _turns(self, *, after: int) -> list[Message]:
        """Return the messages after a turn up to the last that is no answer of a run."""
        messages = list(await patiently(lambda: self._read(after)))
        while messages and messages[-1].run_id is not None:
            messages.pop()
        return messages

    async def _read(self, after: int) -> Sequence[Message]:
        run = self._claim.run
        async with self._database.autocommit() as uow:
            return await uow.messages.turns(run, self._claim.fence, after=after)

    async def _is_held(self) -> bool:
        async with self._database.autocommit() as uow:
            return await uow.queue.is_held(self._claim)

    async def _record(self, thread: Thread) -> bool:
        async with self._database.autocommit(writes=True) as uow:
            return await uow.queue.open_thread(self._claim, thread)

    async def _said(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns; an answer that was cut before its first word says nothing."""
        parts = [part for message in messages for part in message.content]
        named = {part.file_id for part in parts if part.file_id is not None}
        files: Mapping[str, Attached] = {}
        if named:
            files = await patiently(lambda: self._attached(named))
        turns = [
            Turn(message.role, [_part(part, files) for part in message.content])
            for message in messages
        ]
        return [turn for turn in turns if any(turn.parts)]

    async def _attached(self, file_ids: Collection[str]) -> Mapping[str, Attached]:
        async with self._database.autocommit() as uow:
            return await uow.files.attached(self._claim.run.session_id, file_ids)


def _part(part: Part, files: Mapping[str, Attached]) -> str | Attached:
    if part.file_id is None:
        return part.text
    return files.get(part.file_id, GONE_FILE)


def _called(rounds: Sequence[RunStep]) -> list[Turn | Calls]:
    """Return what the tutor said and called in this run, for a thread that does not hold it."""
    turns: list[Turn | Calls] = []
    for step in rounds:
        texts = [part.text for part in step.said if part.text]
        if texts:
            turns.append(Turn(Role.ASSISTANT, texts))
        turns.append(Calls(step.calls))
    return turns
