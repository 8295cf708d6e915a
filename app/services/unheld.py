"""Ends of runs that no worker holds: their user cancels them, or their time is up."""

from dataclasses import replace

from app.domain.events import Draft, MessageChanged
from app.domain.models import MessageStatus, Run
from app.ports import UnitOfWork


async def cut_short(uow: UnitOfWork, changed: Run) -> list[Draft]:
    """Return what ends a run's message with it: nobody else would, and it would stay unfinished.

    A tutor may speak before it asks for a function: the run then waits with half an answer.
    """
    if not changed.status.is_end or changed.output_message_id is None:
        return []
    shown = await uow.messages.get(changed.session_id, changed.output_message_id)
    if shown is None:
        return []
    return [MessageChanged(replace(shown, status=MessageStatus.INCOMPLETE), run_id=changed.id)]
