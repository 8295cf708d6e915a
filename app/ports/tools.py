"""Functions that the server itself calls for a tutor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain.models import JsonObject, ToolCall


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a tool works: it may do what this student may, in this session, and no more."""

    user_id: str
    session_id: str
    run_id: str
    call_id: str
    """The same when a call is repeated because its worker was lost."""


class Tools(Protocol):
    """The server's own tools, by name."""

    def complete(self, tools: Sequence[JsonObject]) -> list[JsonObject]:
        """Return an assistant's tools as the upstream is to be told of them.

        A function of a known name that says nothing of its parameters is the server's own: its
        schema is filled in, and its description if that was left out too.
        """
        ...

    def names(self, tools: Sequence[JsonObject]) -> frozenset[str]:
        """Return which of an assistant's functions, as it has them, the server calls itself."""
        ...

    async def call(self, call: ToolCall, context: ToolContext) -> str:
        """Call one; what goes wrong is told in the output, for the model to read."""
        ...
