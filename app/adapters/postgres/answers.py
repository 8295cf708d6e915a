"""First answers to creating requests, for clients that send them again."""

from typing import Final

from app.adapters.postgres.driver import Driver
from app.domain.errors import RequestInFlightError
from app.ports import FirstAnswer, RequestKey

# Taken before any row's lock, never waited for, and gone with the transaction: fifty requests
# with one key hold one connection for the work, not fifty for the wait.
_TRY: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"

_FIND: Final = """
SELECT digest, body FROM answers
WHERE user_id = $1 AND route = $2 AND key = $3 AND created_at > now() - interval '24 hours'
"""

_KEEP: Final = """
INSERT INTO answers (user_id, route, key, digest, body, session_id)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (user_id, route, key) DO UPDATE
SET digest = excluded.digest, body = excluded.body, session_id = excluded.session_id,
    created_at = now()
"""

_FORGET: Final = "DELETE FROM answers WHERE created_at <= now() - interval '24 hours'"


class PostgresAnswers:
    """First answers, inside one transaction."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def begin(self, user_id: str, request: RequestKey) -> FirstAnswer | None:
        """Return the first answer; None makes this transaction the one that gives it."""
        name = f"{user_id}\n{request.route}\n{request.key}"
        is_first = await self._driver.fetchval(_TRY, name)
        # Looked up after the lock: what another committed before it let go is seen.
        row = await self._driver.fetchrow(_FIND, user_id, request.route, request.key)
        if row is not None:
            return FirstAnswer(*row)
        if not is_first:
            raise RequestInFlightError
        return None

    async def keep(
        self, user_id: str, request: RequestKey, body: str, *, session_id: str | None
    ) -> None:
        """Store the first answer; it is deleted with the session that it tells of."""
        await self._driver.execute(
            _KEEP, user_id, request.route, request.key, request.digest, body, session_id
        )

    async def forget(self) -> None:
        """Delete answers that are older than a day."""
        await self._driver.execute(_FORGET)
