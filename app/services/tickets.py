"""Stream tickets: how a native EventSource, which can send no header, opens a stream.

A ticket is worth one session's streams, is first used within a minute, and dies with the token
that it was made for. Only its digest is stored.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from app.domain.errors import UnauthenticatedError
from app.domain.models import Principal, User
from app.ports import Database
from app.services.sessions import owned

MAX_TICKET_CHARS = 128


@dataclass(frozen=True, slots=True)
class Ticket:
    """A fresh ticket, and until when it can be used for the first time."""

    ticket: str
    expires_at: datetime


class TicketService:
    """Issues and redeems stream tickets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue(self, user: User, session_id: str) -> Ticket:
        """Make a ticket for the user's session.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
        """
        ticket = secrets.token_urlsafe(32)
        async with self._database.transaction() as uow:
            await owned(uow, user, session_id)
            expires_at = await uow.tickets.add(
                _digest(ticket), user.id, session_id, expires_at=user.principal.expires_at
            )
        return Ticket(ticket, expires_at)

    async def redeem(self, ticket: str, session_id: str) -> User:
        """Return the user that a ticket stands for.

        Raises:
            UnauthenticatedError: It is unknown, too old, or for another session.
        """
        if len(ticket) > MAX_TICKET_CHARS:
            raise UnauthenticatedError("The ticket is not valid.")
        async with self._database.transaction() as uow:
            grant = await uow.tickets.redeem(_digest(ticket))
            if grant is None or grant.session_id != session_id:
                # Inside: what was tried elsewhere must not count as the first use.
                raise UnauthenticatedError("The ticket is not valid.")
        principal = Principal("", None, frozenset(), grant.expires_at.timestamp())
        return User(grant.user_id, principal)


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="replace")).digest()
