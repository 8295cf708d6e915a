"""What is remembered of conversations that came from elsewhere."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Imported:
    """A conversation that was taken once; kept though its session may be gone."""

    session_id: str
    user_id: str
    digest: bytes
    """Of what its source held then."""
    is_here: bool
    """Whether its session was not deleted since."""


class Imports(Protocol):
    """What came from elsewhere, by tenant and the source's id."""

    async def find(self, tenant: str | None, source_id: str) -> Imported | None:
        """Return what is known of one, whoever's it is."""
        ...

    async def add(
        self, tenant: str | None, source_id: str, user_id: str, session_id: str, digest: bytes
    ) -> bool:
        """Remember one; False if somebody else just did."""
        ...
