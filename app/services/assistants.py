"""Tutors: read by all in the tenant, written by those who carry the scope."""

from dataclasses import replace

from app.domain.errors import DefaultAssistantError, ForbiddenError, NotFoundError
from app.domain.models import Assistant, AssistantConfig, JsonObject, User
from app.ports import Database, Page, PageQuery, RequestKey
from app.services.idempotency import first_answer, keep_answer

WRITE_SCOPE = "assistants:write"


def may_write(user: User) -> bool:
    """Tell whether the user may write assistants, and so read their instructions."""
    return WRITE_SCOPE in user.principal.scopes


class AssistantService:
    """Tutors of the caller's tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, user: User, page: PageQuery) -> Page[Assistant]:
        """Return those that the user may choose."""
        async with self._database.snapshot() as uow:
            return await uow.assistants.list(user.principal.tenant, page)

    async def get(self, user: User, assistant_id: str) -> Assistant:
        """Return one.

        Raises:
            NotFoundError: There is none, or it is another tenant's.
        """
        async with self._database.snapshot() as uow:
            found = await uow.assistants.get(user.principal.tenant, assistant_id)
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
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        _require_scope(user)
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return again
            made = await uow.assistants.add(user.principal.tenant, config, metadata)
            return await keep_answer(uow, user, request, made.body(with_instructions=True))

    async def update(
        self,
        user: User,
        assistant_id: str,
        changes: JsonObject,
        metadata: JsonObject | None,
    ) -> Assistant:
        """Write the next version: `changes` holds fields of the configuration by name.

        Raises:
            ForbiddenError: The token lacks the scope, or it is the default of all tenants.
            NotFoundError: There is none, or it is another tenant's.
        """
        _require_scope(user)
        async with self._database.transaction() as uow:
            found = await uow.assistants.get(user.principal.tenant, assistant_id, for_update=True)
            if found is None:
                raise NotFoundError
            if found.tenant != user.principal.tenant:
                raise ForbiddenError("The default assistant belongs to every tenant.")
            config = replace(found.config, **changes)
            return await uow.assistants.update(
                found, config, found.metadata if metadata is None else metadata
            )

    async def delete(self, user: User, assistant_id: str) -> None:
        """Delete it; one that was used is archived, and its sessions go on with it.

        Raises:
            ForbiddenError: The token lacks the scope.
            NotFoundError: There is none, or it is another tenant's.
            DefaultAssistantError: It is the default one.
        """
        _require_scope(user)
        async with self._database.transaction() as uow:
            found = await uow.assistants.get(user.principal.tenant, assistant_id, for_update=True)
            if found is None:
                raise NotFoundError
            if found.is_default:
                raise DefaultAssistantError
            await uow.assistants.remove(found)


def _require_scope(user: User) -> None:
    if not may_write(user):
        raise ForbiddenError(f"This needs the scope `{WRITE_SCOPE}`.")
