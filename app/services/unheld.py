"""Ends of runs that no worker holds: their user cancels them, or their time is up."""

from dataclasses import replace

from app.domain.events import Draft, MessageChanged
from app.domain.models import MessageStatus, Run
from app.domain.steps import StepStatus
from app.ports import ThreadMark, UnitOfWork
from app.services.steps import ended


async def cut_short(uow: UnitOfWork, changed: Run) -> list[Draft]:
    """Return what ends a run's message and steps with it: nobody else would.

    A tutor may speak before it asks for a function: the run then waits with half an answer.
    """
    if not changed.status.is_end:
        return []
    drafts: list[Draft] = [
        ended(step, changed.status)
        for step in await uow.runs.steps(changed)
        if step.status is StepStatus.IN_PROGRESS
    ]
    if changed.output_message_id is None:
        return drafts
    shown = await uow.messages.get(changed.session_id, changed.output_message_id)
    if shown is not None:
        cut = replace(shown, status=MessageStatus.INCOMPLETE)
        drafts.append(MessageChanged(cut, run_id=changed.id))
    return drafts


def thread_after(ended: Run) -> ThreadMark | None:
    """Return what becomes of the upstream's thread when a run ends that no worker holds.

    One that was begun waited for its tools: the thread ends with calls that nobody will answer,
    and takes no other question. The next run opens another one from the transcript.
    """
    if ended.status.is_end and ended.started_at is not None:
        return ThreadMark(None, 0, None)
    return None
