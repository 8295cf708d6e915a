"""Users' vector stores: kept by the upstream, owned and listed here.

As with files, the ledger knows of a store before the upstream does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from app.domain import ids
from app.domain.errors import (
    NotFoundError,
    ResourceRefusedError,
    TooManyStoresError,
)
from app.domain.ids import is_id
from app.domain.models import JsonObject, User
from app.domain.stores import StoreFile, VectorStore
from app.ports import Database, KeptKind, Page, PageQuery, UnitOfWork, UpstreamStores
from app.services.giving_up import give_up

MAX_STORES: Final = 100
"""Of a user."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A store that is wanted."""

    name: str = ""
    file_ids: Sequence[str] = ()
    chunking: JsonObject = field(default_factory=lambda: {"type": "auto"})
    metadata: JsonObject = field(default_factory=dict[str, Any])


class StoreService:
    """Vector stores of one caller at a time."""

    def __init__(self, database: Database, upstream: UpstreamStores) -> None:
        self._database = database
        self._upstream = upstream

    async def create(self, user: User, wanted: Wanted) -> VectorStore:
        """Make one that holds files of the user's.

        Raises:
            ResourceRefusedError: A file is not there, or somebody else's.
            TooManyStoresError: The user has too many already.
            UpstreamError: The upstream did not make it.
        """
        store_id = ids.new_id(ids.STORE)
        async with self._database.transaction() as uow:
            if await uow.stores.count(user.id, lock=True) >= MAX_STORES:
                raise TooManyStoresError
            files = await _files(uow, user, wanted.file_ids)
            await uow.ledger.enter(KeptKind.VECTOR_STORE, store_id, user_id=user.id)
        upstream_id = None
        try:
            # Under our own name for it: should its answer be lost, it can be found.
            upstream_id = await self._upstream.create(
                store_id, list(files.values()), wanted.chunking
            )
            made = VectorStore(store_id, user.id, wanted.name, wanted.metadata)
            return await self._keep(user, made, list(files), wanted.chunking, upstream_id)
        except BaseException:
            await give_up(self._database, KeptKind.VECTOR_STORE, store_id, upstream_id)
            raise

    async def _keep(
        self,
        user: User,
        made: VectorStore,
        file_ids: Sequence[str],
        chunking: JsonObject,
        upstream_id: str,
    ) -> VectorStore:
        async with self._database.transaction() as uow:
            if not await uow.stores.add(made, upstream_id):
                # Its user was deleted meanwhile.
                raise NotFoundError
            await uow.stores.put(made.id, file_ids, chunking=chunking)
            return await _owned(uow, user, made.id)

    async def list(self, user: User, page: PageQuery) -> Page[VectorStore]:
        """Return the user's stores by age, as they were last seen."""
        async with self._database.snapshot() as uow:
            return await uow.stores.list(user.id, page)

    async def get(self, user: User, store_id: str) -> VectorStore:
        """Return one; while it takes files in, the upstream is asked how far it is.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            UpstreamError: The upstream does not say, for now.
        """
        async with self._database.snapshot() as uow:
            found = await _owned(uow, user, store_id)
            upstream_id = await uow.stores.upstream_id(store_id)
        if not found.is_filling or upstream_id is None:
            return found
        told = await self._upstream.files(upstream_id)
        async with self._database.transaction() as uow:
            await uow.stores.told(store_id, told)
            return await _owned(uow, user, store_id)

    async def change(
        self, user: User, store_id: str, *, name: str | None, metadata: JsonObject | None
    ) -> VectorStore:
        """Change what is given.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            found = await _owned(uow, user, store_id, for_update=True)
            changed = replace(
                found,
                name=found.name if name is None else name,
                metadata=found.metadata if metadata is None else metadata,
            )
            await uow.stores.change(store_id, name=changed.name, metadata=changed.metadata)
        return changed

    async def delete(self, user: User, store_id: str) -> None:
        """Delete one: gone at once here, and upstream as soon as the upstream allows.

        Its files stay. Tutors that search it go on without it.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            await _owned(uow, user, store_id, for_update=True)
            await uow.stores.remove(store_id)
            uow.wake_workers()

    async def add_files(
        self,
        user: User,
        store_id: str,
        wanted: Wanted,
        *,
        is_batch: bool = False,
    ) -> Sequence[StoreFile]:
        """Put files into one; return them, as a batch under one id if that is wanted.

        Raises:
            NotFoundError: There is no such store, or it is somebody else's.
            ResourceRefusedError: A file is not there, or somebody else's.
            UpstreamError: The upstream did not take them.
        """
        async with self._database.snapshot() as uow:
            await _owned(uow, user, store_id)
            files = await _files(uow, user, wanted.file_ids)
            upstream_id = await uow.stores.upstream_id(store_id)
        if upstream_id is None:
            raise NotFoundError
        # What the upstream holds and we know nothing of, goes with its store or its file.
        await self._upstream.add(upstream_id, list(files.values()), wanted.chunking)
        batch_id = ids.new_id(ids.BATCH) if is_batch else None
        async with self._database.transaction() as uow:
            await _owned(uow, user, store_id, for_update=True)
            await uow.stores.put(
                store_id, list(files), chunking=wanted.chunking, batch_id=batch_id
            )
            store = await _owned(uow, user, store_id)
        return [file for file in store.files if file.file_id in files]

    async def files(
        self,
        user: User,
        store_id: str,
        page: PageQuery,
        *,
        status: str | None,
        batch_id: str | None = None,
    ) -> Page[StoreFile]:
        """Return a store's files by age, or a batch's.

        Raises:
            NotFoundError: There is no such store or batch, or it is somebody else's.
            UpstreamError: The upstream does not say how far it is, for now.
        """
        store = await self.get(user, store_id)
        if batch_id is not None:
            batch_of(store, batch_id)
        async with self._database.snapshot() as uow:
            return await uow.stores.list_files(store_id, page, status=status, batch_id=batch_id)

    async def file(self, user: User, store_id: str, file_id: str) -> StoreFile:
        """Return what is known of a file in a store.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            UpstreamError: The upstream does not say how far it is, for now.
        """
        return _file_of(await self.get(user, store_id), file_id)

    async def take_out(self, user: User, store_id: str, file_id: str) -> None:
        """Take a file out of a store; the file itself stays.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            UpstreamError: The upstream could not, for now.
        """
        async with self._database.snapshot() as uow:
            _file_of(await _owned(uow, user, store_id), file_id)
            upstream_id = await uow.stores.upstream_id(store_id)
            known = await uow.stores.owned(user.id, [file_id])
        if upstream_id is not None and file_id in known:
            await self._upstream.take_out(upstream_id, known[file_id])
        async with self._database.transaction() as uow:
            await uow.stores.take_out(store_id, file_id)


def batch_of(store: VectorStore, batch_id: str) -> Sequence[StoreFile]:
    """Return the files that came together.

    Raises:
        NotFoundError: There is no such batch in this store.
    """
    found = [file for file in store.files if file.batch_id == batch_id]
    if not found:
        raise NotFoundError
    return found


async def _owned(
    uow: UnitOfWork, user: User, store_id: str, *, for_update: bool = False
) -> VectorStore:
    found = await uow.stores.get(user.id, store_id, for_update=for_update)
    if found is None:
        raise NotFoundError
    return found


def _file_of(store: VectorStore, file_id: str) -> StoreFile:
    for file in store.files:
        if file.file_id == file_id:
            return file
    raise NotFoundError


async def _files(uow: UnitOfWork, user: User, file_ids: Sequence[str]) -> Mapping[str, str]:
    """Return what the upstream calls the user's files, by our ids."""
    known = await uow.stores.owned(user.id, {name for name in file_ids if is_id(name)})
    if not known.keys() >= set(file_ids):
        raise ResourceRefusedError("There is no such file.")
    return {name: known[name] for name in file_ids}
