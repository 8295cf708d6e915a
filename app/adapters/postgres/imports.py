"""What is remembered of conversations that came from elsewhere."""

from app.adapters.postgres.driver import Driver
from app.ports import Imported

_FIND = """
SELECT i.session_id, i.user_id, i.digest, EXISTS (
    SELECT FROM sessions s WHERE s.id = i.session_id AND s.deleted_at IS NULL) AS is_here
FROM imported_threads i WHERE i.source_id = $1 AND i.tenant IS NOT DISTINCT FROM $2
"""

_ADD = """
INSERT INTO imported_threads (source_id, tenant, user_id, session_id, digest)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
"""


class PostgresImports:
    """Imports, inside one transaction."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def find(self, tenant: str | None, source_id: str) -> Imported | None:
        """Return what is known of one, whoever's it is."""
        row = await self._driver.fetchrow(_FIND, source_id, tenant)
        return None if row is None else Imported(*row)

    async def add(
        self, tenant: str | None, source_id: str, user_id: str, session_id: str, digest: bytes
    ) -> bool:
        """Remember one; False if somebody else just did."""
        done = await self._driver.execute(_ADD, source_id, tenant, user_id, session_id, digest)
        return done == "INSERT 0 1"
