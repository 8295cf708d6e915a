"""The book of what stands upstream for configurations."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from app.adapters.postgres.driver import Driver

UNUSED: Final = timedelta(days=2)
"""What no run has asked for in this time goes; no run lives as long."""

_FIND = """
UPDATE upstream_tutors SET used_at = now() WHERE digest = $1 AND retired_at IS NULL
RETURNING tutor_id
"""

# One that came second is kept in the book only to be deleted upstream.
_ADD = """
WITH made AS (
    INSERT INTO upstream_tutors (tutor_id, digest) VALUES ($2, $1)
    ON CONFLICT DO NOTHING
    RETURNING tutor_id
)
INSERT INTO upstream_tutors (tutor_id, digest, retired_at)
SELECT $2, $1, now() WHERE NOT EXISTS (SELECT FROM made)
ON CONFLICT (tutor_id) DO NOTHING
"""

# Those that can't be deleted must not come first for ever.
_UNUSED = """
WITH retired AS (
    UPDATE upstream_tutors SET retired_at = now()
    WHERE retired_at IS NULL AND used_at < now() - $1::interval
    RETURNING tutor_id
)
SELECT tutor_id FROM (
    SELECT tutor_id FROM retired
    UNION SELECT tutor_id FROM upstream_tutors WHERE retired_at IS NOT NULL) gone
ORDER BY random() LIMIT $2
"""


class PostgresTutors:
    """The book, inside one transaction."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def find(self, digest: str) -> str | None:
        """Return the upstream's id for a configuration, if it has one; note that it is used."""
        rows = await self._driver.fetch(_FIND, digest)
        return rows[0]["tutor_id"] if rows else None

    async def add(self, digest: str, tutor_id: str) -> str:
        """Record a new one; return the one to use: another worker's may have been first."""
        await self._driver.execute(_ADD, digest, tutor_id)
        return await self.find(digest) or tutor_id

    async def unused(self, limit: int) -> Sequence[str]:
        """Return those that are not needed upstream any more; they are not found again."""
        return [row["tutor_id"] for row in await self._driver.fetch(_UNUSED, UNUSED, limit)]

    async def remove(self, tutor_id: str) -> None:
        """Record that the upstream has it no more."""
        await self._driver.execute("DELETE FROM upstream_tutors WHERE tutor_id = $1", tutor_id)
