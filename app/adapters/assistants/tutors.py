"""Assistants upstream, one for each configuration that runs use.

None is ever changed: another version of a tutor is another assistant, so that a run is answered
by what it names, whatever other workers and versions do meanwhile.
"""

import time
from typing import Final

from app.adapters.assistants import request
from app.adapters.wire.client import WireClient
from app.adapters.wire.errors import TUTOR_LOST, translated
from app.adapters.wire.values import ident
from app.domain.errors import UpstreamError
from app.ports import Generation, Tutors

CACHE_S: Final = 600.0
"""How long an id is used without a look at the book, which notes that it is used."""
CACHED: Final = 500
BATCH: Final = 50
"""How many are deleted at once."""
MAX_FAILURES: Final = 3
"""After so many the upstream is taken to be away."""
_PATH: Final = "/assistants"


class UpstreamTutors:
    """Makes, remembers and deletes them."""

    def __init__(self, wire: WireClient, book: Tutors) -> None:
        self._wire = wire
        self._book = book
        self._known: dict[str, tuple[str, float]] = {}

    async def id_of(self, generation: Generation) -> str:
        """Return the assistant that is what the configuration says, made if there is none.

        Raises:
            UpstreamError: It can't be made.
        """
        body = request.assistant(generation)
        digest = request.digest(body)
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[1] < CACHE_S:
            return known[0]
        looked = time.monotonic()
        found = await self._book.find(digest)
        if found is None:
            with translated():
                made = ident((await self._wire.call("post", _PATH, body))["id"])
            found = await self._book.add(digest, made)
        if len(self._known) >= CACHED:
            self._known.clear()
        self._known[digest] = (found, looked)
        return found

    async def forget(self, tutor_id: str) -> None:
        """Record that the upstream does not know it any more."""
        self._known = {key: value for key, value in self._known.items() if value[0] != tutor_id}
        await self._book.remove(tutor_id)

    async def tidy(self) -> None:
        """Delete those upstream that nothing has used for long.

        Raises:
            UpstreamError: Not all can be deleted, for now.
        """
        failures: list[UpstreamError] = []
        for tutor_id in await self._book.unused(BATCH):
            try:
                await self._wire.call("delete", f"{_PATH}/{tutor_id}")
            except UpstreamError as error:
                # Another worker may be at it too.
                if error.code not in {TUTOR_LOST, "upstream_not_found"}:
                    failures.append(error)
                    if len(failures) == MAX_FAILURES:
                        break
                    continue
            await self._book.remove(tutor_id)
        if failures:
            raise failures[0]
