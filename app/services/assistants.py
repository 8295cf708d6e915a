"""Tutors: the tenant's, written by those who carry the scope, and each user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from app.domain.errors import DefaultAssistantError, ForbiddenError, NotFoundError
from app.domain.models import Assistant, AssistantConfig, JsonObject, Run, User
from app.ports import (
    AssistantVersion,
    Database,
    Page,
    PageQuery,
    RequestKey,
    VersionKey,
)
from app.services.idempotency import first_answer, keep_answer
from app.services.resources import check_resources

WRITE_SCOPE = "assistants:write"
CACHED_VERSIONS: Final = 1000


def may_read(user: User, owner_id: str | None) -> bool:
    """Tell whether the user may read an assistant's instructions: an owner, or who writes all."""
    return owner_id == user.id or WRITE_SCOPE in user.principal.scopes


class AssistantService:
    """Tutors that the caller may use."""

    def __init__(self, database: Database, *, own_allowed: bool) -> None:
        self._database = database
        self._own_allowed = own_allowed
        self._versions: dict[VersionKey, AssistantVersion] = {}
        """Versions never change, so those seen are remembered."""

    async def list(self, user: User, page: PageQuery) -> Page[Assistant]:
        """Return those that the user may choose."""
        async with self._database.snapshot() as uow:
            return await uow.assistants.list(user, page)

    async def get(self, user: User, assistant_id: str) -> Assistant:
        """Return one.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            found = await uow.assistants.get(user, assistant_id)
        if found is None:
            raise NotFoundError
        return found

    async def create(
        self,
        user: User,
        config: AssistantConfig,
        metadata: JsonObject,
        *,
        request: RequestKey | None = None,
    ) -> JsonObject:
        """Make a new one for the tenant; return its body.

        Raises:
            ForbiddenError: The token lacks the scope.
            ResourceRefusedError: A tool is to work on what is not the user's.
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        if WRITE_SCOPE not in user.principal.scopes:
            raise _forbidden()
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return again
            await check_resources(uow, user, config.tool_resources)
            made = await uow.assistants.add(user, config, metadata, is_own=False)
            return await keep_answer(uow, user, request, made.body(with_instructions=True))

    async def create_own(
        self, user: User, config: AssistantConfig, metadata: JsonObject
    ) -> Assistant:
        """Make one that is the user's own, for nobody else to see; no scope is needed.

        Raises:
            ForbiddenError: Users have none of their own here.
            ResourceRefusedError: A tool is to work on what is not the user's.
        """
        self.check_own_allowed()
        async with self._database.transaction() as uow:
            await check_resources(uow, user, config.tool_resources)
            return await uow.assistants.add(user, config, metadata, is_own=True)

    def check_own_allowed(self) -> None:
        """Refuse where users may not configure tutors of their own.

        Raises:
            ForbiddenError: They may not.
        """
        if not self._own_allowed:
            raise ForbiddenError("Users can't configure assistants of their own here.")

    async def used_by(self, runs: Sequence[Run]) -> Mapping[VersionKey, AssistantVersion]:
        """Return what the runs' assistants were, by id and version."""
        wanted = {(run.assistant_id, run.assistant_version) for run in runs}
        known = {key: self._versions[key] for key in wanted & self._versions.keys()}
        if len(known) == len(wanted):
            return known
        async with self._database.autocommit() as uow:
            found = await uow.assistants.versions(wanted - known.keys())
        if len(self._versions) >= CACHED_VERSIONS:
            self._versions.clear()
        self._versions.update(found)
        return {**known, **found}

    async def update(
        self,
        user: User,
        assistant_id: str,
        changes: JsonObject,
        metadata: JsonObject | None,
    ) -> Assistant:
        """Write the next version: `changes` holds fields of the configuration by name.

        Raises:
            ForbiddenError: It is the tenant's and the token lacks the scope, it is the default of
                all tenants, or users have none of their own here any more.
            NotFoundError: There is none, or it is somebody else's.
            ResourceRefusedError: A tool is to work on what is not the user's.
        """
        async with self._database.transaction() as uow:
            found = await uow.assistants.get(user, assistant_id, lock="update")
            found = _writable(user, found)
            if found.owner_id is not None:
                self.check_own_allowed()
            if found.tenant != user.principal.tenant:
                raise ForbiddenError("The default assistant belongs to every tenant.")
            if "tool_resources" in changes:
                await check_resources(uow, user, changes["tool_resources"])
            config = replace(found.config, **changes)
            return await uow.assistants.update(
                found, config, found.metadata if metadata is None else metadata
            )

    async def delete(self, user: User, assistant_id: str) -> None:
        """Delete it; one that was used is archived, and its sessions go on with it.

        Raises:
            ForbiddenError: It is the tenant's, and the token lacks the scope.
            NotFoundError: There is none, or it is somebody else's.
            DefaultAssistantError: It is the default one.
        """
        async with self._database.transaction() as uow:
            found = await uow.assistants.get(user, assistant_id, lock="update")
            found = _writable(user, found)
            if found.is_default:
                raise DefaultAssistantError
            await uow.assistants.remove(found)


def _writable(user: User, found: Assistant | None) -> Assistant:
    """Return an assistant that the user may write; without the scope none but their own are."""
    if WRITE_SCOPE not in user.principal.scopes and (found is None or found.owner_id != user.id):
        raise _forbidden()
    if found is None:
        raise NotFoundError
    return found


def _forbidden() -> ForbiddenError:
    return ForbiddenError(f"This needs the scope `{WRITE_SCOPE}`.")
