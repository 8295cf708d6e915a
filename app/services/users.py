"""Who the caller is here."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from app.domain.models import Principal, User
from app.ports import Database, TokenVerifier

CACHED_USERS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user may have at once."""

    message_chars: int
    queued_runs_per_session: int
    queued_runs: int
    streams: int
    tool_output_chars: int = 200_000
    """Of all functions that a run waits for, together."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A user's limits, and what is left of them."""

    user: User
    limits: Limits
    queued_runs_left: int


class UserService:
    """Tokens to users."""

    def __init__(self, database: Database, verifier: TokenVerifier, limits: Limits) -> None:
        self._database = database
        self._verifier = verifier
        self.limits = limits
        self._ids: OrderedDict[tuple[str | None, str], str] = OrderedDict()

    async def authenticate(self, token: str) -> User:
        """Return the user that a bearer token speaks for, made at first sight.

        Raises:
            UnauthenticatedError: The token is not to be trusted.
        """
        return await self.user_of(await self._verifier.verify(token))

    async def user_of(self, principal: Principal) -> User:
        """Return the principal's user; ids never change, so those seen are remembered."""
        key = (principal.tenant, principal.subject)
        user_id = self._ids.get(key)
        if user_id is None:
            async with self._database.transaction() as uow:
                user_id = await uow.users.resolve(principal)
            self._ids[key] = user_id
            if len(self._ids) > CACHED_USERS:
                self._ids.popitem(last=False)
        else:
            self._ids.move_to_end(key)
        return User(user_id, principal)

    async def standing(self, user: User) -> Standing:
        """Return the user's limits and what is left of them."""
        async with self._database.snapshot() as uow:
            queued = await uow.users.queued_runs(user.id)
        return Standing(user, self.limits, max(0, self.limits.queued_runs - queued))
