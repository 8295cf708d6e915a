"""What tutors' tools work on: checked when a tutor is written, named when its answer is told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from app.domain.errors import ResourceRefusedError
from app.domain.ids import is_id
from app.domain.models import AssistantConfig, JsonObject, Part, User
from app.ports import NO_RESOURCES, Database, Ended, Resources, Step, UnitOfWork
from app.services.patience import patiently

RESOURCES: Final = {"code_interpreter": "file_ids", "file_search": "vector_store_ids"}
"""Where each tool's settings name what it works on."""
_FILENAMES: Final = frozenset({"filename", "file_name"})


def named_in(tool_resources: Mapping[str, Any]) -> Collection[str]:
    """Return the ids of all files and stores that tools are to work on."""
    named: set[str] = set()
    for tool, name in RESOURCES.items():
        settings: Mapping[str, Any] | None = tool_resources.get(tool)
        named.update((settings or {}).get(name) or ())
    return named


async def check_resources(uow: UnitOfWork, user: User, tool_resources: JsonObject) -> None:
    """Refuse what is not the user's own.

    Raises:
        ResourceRefusedError: Something is not there, or somebody else's.
    """
    wanted = named_in(tool_resources)
    if not wanted:
        return
    found = await uow.stores.owned(user.id, {name for name in wanted if is_id(name)})
    if len(found) != len(wanted):
        raise ResourceRefusedError


class Workplace:
    """The files and stores of one run's tutor."""

    def __init__(self, database: Database, config: AssistantConfig) -> None:
        self._database = database
        self._wanted = named_in(config.tool_resources) if config.tools else ()
        self.resources = NO_RESOURCES

    async def look(self) -> Resources:
        """Read what is there now: it may have been deleted since the tutor was written."""
        if self._wanted:
            self.resources = await patiently(self._read)
        return self.resources

    async def _read(self) -> Resources:
        async with self._database.autocommit() as uow:
            return await uow.stores.resources(self._wanted)

    def step(self, heard: Step) -> Step:
        """Return what a tool did, with our ids of the files."""
        if not self.resources.ours:
            return heard
        return replace(heard, details=self._renamed(heard.details))

    async def ended(self, ended: Ended | None) -> Ended | None:
        """Return an answer that cites our files by our ids."""
        if ended is None or not any(part.annotations for part in ended.content):
            return ended
        if not self.resources.ours:
            # Its generation was asked for by another worker.
            await self.look()
        return replace(ended, content=self._cited(ended.content))

    def _cited(self, content: Sequence[Part]) -> Sequence[Part]:
        return [
            replace(part, annotations=tuple(self._renamed(note) for note in part.annotations))
            for part in content
        ]

    def _renamed(self, value: Any) -> Any:
        """Put our ids in place of the upstream's, wherever a file is named."""
        if isinstance(value, list):
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            return [self._renamed(item) for item in items]
        if not isinstance(value, dict):
            return value
        members: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        renamed = {name: self._renamed(inner) for name, inner in members.items()}
        file_id: Any = renamed.get("file_id")
        ours = self.resources.ours.get(file_id) if isinstance(file_id, str) else None
        if ours is not None:
            renamed["file_id"] = ours
            for name in _FILENAMES & renamed.keys():
                # Upstream it is kept under a name that begins with our id.
                renamed[name] = str(renamed[name]).removeprefix(f"{ours}-")
        return renamed
