"""Users' files: sent through to the upstream while they are read, and owned here.

The ledger knows of a file before the upstream does. What goes wrong after that, whoever it happens
to, ends with the upstream's copy deleted: at once where somebody is left to say so, else within
an hour.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.domain import ids
from app.domain.errors import (
    FileRefusedError,
    FileTooLargeError,
    NotFoundError,
    SessionBusyError,
    ShuttingDownError,
    TooManyFilesError,
    TooManyUploadsError,
)
from app.domain.files import HEAD_BYTES, MAX_NAME, Inspection, StoredFile, clean_name
from app.domain.ids import is_id
from app.domain.models import Part, PartKind, User
from app.ports import (
    Append,
    Database,
    FilePurpose,
    KeptKind,
    Page,
    PageQuery,
    RequestKey,
    ThreadMark,
    UnitOfWork,
    UpstreamFiles,
)
from app.services.giving_up import give_up
from app.services.idempotency import first_answer, keep_answer

LAST_UPLOADS_S: Final = 2.0
"""For uploads that are under way at SIGTERM; the server cuts what takes longer than 3 s."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What is taken."""

    size: int
    """Bytes of a file."""
    types: frozenset[str]
    """Media types."""
    files: int
    """Of a user."""
    total: int
    """Bytes of all files of a user."""
    uploads: int
    """At once, in a process."""


@dataclass(slots=True)
class Sent:
    """A file as it comes in.

    Attributes:
        filename: As the client gave it.
        pieces: Its content; may raise whatever reading it raises.
        purpose: What it is for; may become known only once `pieces` have been read.
        usual: What the upstream is told when nothing else is known, of what is no picture.
        request: What makes the request recognisable; its digest is made here.
    """

    filename: str
    pieces: AsyncIterator[bytes]
    purpose: FilePurpose | None = None
    usual: FilePurpose = FilePurpose.USER_DATA
    request: RequestKey | None = None


class FileService:
    """Files of one caller at a time."""

    def __init__(self, database: Database, upstream: UpstreamFiles, limits: FileLimits) -> None:
        self._database = database
        self._upstream = upstream
        self.limits = limits
        self._uploads: set[asyncio.Timeout] = set()
        self._is_closing = False

    def close(self) -> None:
        """End: uploads under way get a moment, later ones are for another process."""
        self._is_closing = True
        deadline = asyncio.get_running_loop().time() + LAST_UPLOADS_S
        for scope in self._uploads:
            scope.reschedule(deadline)

    async def upload(self, user: User, sent: Sent) -> StoredFile:
        """Send a file to the upstream while it is read, and keep it as the user's.

        No connection to the database is held meanwhile.

        Raises:
            FileRefusedError: It is empty, has no name, or is not what may be sent.
            FileTooLargeError: It is too large.
            TooManyFilesError: The user keeps too much already.
            TooManyUploadsError: Too much is being sent at once.
            ShuttingDownError: This process is going away.
            UpstreamError: The upstream did not take it.
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        inspection = Inspection(clean_name(sent.filename), self.limits.types)
        async with self._place():
            reading = _Reading(sent, inspection, self.limits.size)
            # Nothing is written of what is no file that could be taken.
            await reading.begin()
            file_id = ids.new_id(ids.FILE)
            await self._enter(user, file_id)
            upstream_id = None
            try:
                purpose = FilePurpose.VISION if reading.is_image else sent.purpose or sent.usual
                name = f"{file_id}-{inspection.name}"[:MAX_NAME]
                upstream_id = await self._upstream.upload(
                    name, inspection.media_type, purpose, reading.pieces()
                )
                return await self._keep(user, file_id, reading, upstream_id)
            except BaseException:
                await give_up(self._database, KeptKind.FILE, file_id, upstream_id)
                raise

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        if self._is_closing:
            raise ShuttingDownError
        if len(self._uploads) >= self.limits.uploads:
            raise TooManyUploadsError
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._uploads.add(scope)
                yield
        except TimeoutError:
            raise ShuttingDownError from None
        finally:
            self._uploads.discard(scope)

    async def _enter(self, user: User, file_id: str) -> None:
        async with self._database.transaction() as uow:
            held = await uow.files.held(user.id, lock=True)
            if held.files >= self.limits.files or held.size >= self.limits.total:
                raise TooManyFilesError
            await uow.ledger.enter(KeptKind.FILE, file_id, user_id=user.id)

    async def _keep(
        self, user: User, file_id: str, reading: "_Reading", upstream_id: str
    ) -> StoredFile:
        sent, inspection = reading.sent, reading.inspection
        file = StoredFile(
            id=file_id,
            user_id=user.id,
            filename=inspection.name,
            size=inspection.size,
            media_type=inspection.media_type,
            purpose=sent.purpose,
        )
        request = sent.request and RequestKey(
            sent.request.route, sent.request.key, reading.digest()
        )
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                # The first time's file is the answer; this copy of it goes.
                first = await uow.files.get(user.id, str(again["id"]))
                if first is None:
                    raise NotFoundError
                await uow.ledger.retire(KeptKind.FILE, file_id, upstream_id)
                return first
            held = await uow.files.held(user.id, lock=True)
            if held.size + file.size > self.limits.total:
                raise TooManyFilesError
            kept = await uow.files.add(file, upstream_id)
            if kept is None:
                # Its user was deleted while it was sent.
                raise NotFoundError
            await keep_answer(uow, user, request, kept.body())
        return kept

    async def list(
        self, user: User, page: PageQuery, *, purpose: str | None = None
    ) -> Page[StoredFile]:
        """Return the user's files by age."""
        async with self._database.snapshot() as uow:
            return await uow.files.list(user.id, page, purpose=purpose)

    async def get(self, user: User, file_id: str) -> StoredFile:
        """Return one.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            return await _owned(uow, user, file_id)

    @asynccontextmanager
    async def content(
        self, user: User, file_id: str
    ) -> AsyncGenerator[tuple[StoredFile, AsyncIterator[bytes]]]:
        """Open a file's content, to be read while the block lasts.

        Raises:
            NotFoundError: There is none, it is somebody else's, or the upstream has lost it.
            NotDownloadableError: The upstream does not give it back.
            UpstreamError: It can't be had for now.
        """
        async with self._database.snapshot() as uow:
            file = await _owned(uow, user, file_id)
            upstream_id = await uow.files.upstream_id(file_id)
        if upstream_id is None:
            raise NotFoundError
        async with self._upstream.download(upstream_id) as pieces:
            yield file, pieces

    async def delete(self, user: User, file_id: str) -> None:
        """Delete one: gone at once here, and upstream as soon as the upstream allows.

        Threads that hold it are given up: their next run is told what is left.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            SessionBusyError: A run that may be reading it is under way.
        """
        async with self._database.transaction() as uow:
            await _owned(uow, user, file_id)
            for session_id in await uow.files.users_of(file_id):
                session = await uow.sessions.get(user.id, session_id, for_update=True)
                if session is None:
                    continue
                if session.active_run_id is not None:
                    raise SessionBusyError(session.active_run_id)
                forgotten = ThreadMark(None, 0, None)
                await uow.log.append([Append(session_id, [], thread=forgotten)])
            await uow.files.remove(file_id)
            uow.wake_workers()


class _Reading:
    """A file that passes: looked at, counted, digested, never held."""

    def __init__(self, sent: Sent, inspection: Inspection, limit: int) -> None:
        self.sent = sent
        self.inspection = inspection
        self._limit = limit
        self._hash = hashlib.sha256()
        self._head = b""

    @property
    def is_image(self) -> bool:
        return self.inspection.media_type.startswith("image/")

    async def begin(self) -> None:
        """Read as much as tells what it is."""
        while len(self._head) < HEAD_BYTES:
            piece = await anext(self.sent.pieces, None)
            if piece is None:
                break
            self._head += piece
        self.inspection.begin(self._head)

    async def pieces(self) -> AsyncIterator[bytes]:
        self._take(self._head)
        yield self._head
        async for piece in self.sent.pieces:
            self._take(piece)
            yield piece
        self.inspection.feed(b"", last=True)

    def _take(self, piece: bytes) -> None:
        self.inspection.feed(piece)
        if self.inspection.size > self._limit:
            raise FileTooLargeError
        self._hash.update(piece)

    def digest(self) -> bytes:
        """Tell this file under this name from every other."""
        self._hash.update(f"\n{self.sent.filename}\n{self.sent.purpose}".encode())
        return self._hash.digest()


async def _owned(uow: UnitOfWork, user: User, file_id: str) -> StoredFile:
    found = await uow.files.get(user.id, file_id)
    if found is None:
        raise NotFoundError
    return found


async def use_files(uow: UnitOfWork, user: User, session_id: str, content: Sequence[Part]) -> None:
    """Note that the files in a message are used in a session whose row is locked.

    Raises:
        FileRefusedError: One is not the user's, is gone, or is no picture but meant as one.
    """
    wanted = {part.file_id for part in content if part.file_id is not None}
    if not wanted:
        return
    found = await uow.files.use(user.id, session_id, {name for name in wanted if is_id(name)})
    for part in content:
        if part.file_id is None:
            continue
        file = found.get(part.file_id)
        if file is None:
            raise FileRefusedError("There is no such file.")
        if part.kind is PartKind.IMAGE and not file.is_image:
            raise FileRefusedError("This file is no picture.")
