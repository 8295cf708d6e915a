"""Who the caller is here."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from app.domain.models import Principal, User
from app.ports import Database, TokenVerifier

CACHED_USERS: Final = 20_000
REMEMBERED_S: Final = 60.0
"""How long a user who was deleted may be taken for present; what is made meanwhile goes too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user may have at once."""

    message_chars: int
    queued_runs_per_session: int
    queued_runs: int
    streams: int
    file_bytes: int
    files: int
    files_bytes: int
    tool_output_chars: int = 200_000
    """Of all functions that a run waits for, together."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A user's limits, and what is left of them."""

    user: User
    limits: Limits
    queued_runs_left: int
    files_left: int
    file_bytes_left: int


class UserService:
    """Tokens to users."""

    def __init__(self, database: Database, verifier: TokenVerifier, limits: Limits) -> None:
        self._database = database
        self._verifier = verifier
        self.limits = limits
        self._ids: OrderedDict[tuple[str | None, str], tuple[str, float]] = OrderedDict()
        """Ids, and when they were last looked up."""

    async def authenticate(self, token: str) -> User:
        """Return the user that a bearer token speaks for, made at first sight.

        Raises:
            UnauthenticatedError: The token is not to be trusted.
        """
        return await self.user_of(await self._verifier.verify(token))

    async def user_of(self, principal: Principal) -> User:
        """Return the principal's user; ids change by deletion alone, so they are remembered."""
        key = (principal.tenant, principal.subject)
        user_id, seen = self._ids.get(key, ("", 0.0))
        now = time.monotonic()
        if not user_id or now - seen > REMEMBERED_S:
            async with self._database.transaction() as uow:
                user_id = await uow.users.resolve(principal)
            self._ids[key] = (user_id, now)
            if len(self._ids) > CACHED_USERS:
                self._ids.popitem(last=False)
        else:
            self._ids.move_to_end(key)
        return User(user_id, principal)

    async def standing(self, user: User) -> Standing:
        """Return the user's limits and what is left of them."""
        async with self._database.snapshot() as uow:
            queued = await uow.users.queued_runs(user.id)
            held = await uow.files.held(user.id)
        limits = self.limits
        return Standing(
            user,
            limits,
            queued_runs_left=max(0, limits.queued_runs - queued),
            files_left=max(0, limits.files - held.files),
            file_bytes_left=max(0, limits.files_bytes - held.size),
        )
