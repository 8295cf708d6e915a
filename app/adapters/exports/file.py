"""A file of exported objects, given back thread by thread.

The lines of one thread may stand anywhere. A first pass notes where they are, in a temporary
database on disk that holds ids and offsets alone; then each thread's lines are read again. At any
time one line, or one thread, is in memory.
"""

import hashlib
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, Generic, TypeVar

from app.adapters.exports import decode
from app.adapters.exports.lines import (
    MAX_LINE_BYTES,
    MESSAGE,
    THREAD,
    Found,
    Line,
    UnreadableError,
    lines,
    objects,
)
from app.domain.history import Loss, PastMessage, PastRun, PastThread
from app.domain.models import JsonObject, Role

_TABLE: Final = """
CREATE TABLE places (
    thread TEXT, line INTEGER, start INTEGER, size INTEGER, PRIMARY KEY (thread, line)
) WITHOUT ROWID
"""
_THREADS: Final = "SELECT thread FROM places GROUP BY thread ORDER BY min(line)"
_LINES: Final = "SELECT line, start, size FROM places WHERE thread = ? ORDER BY line"


T = TypeVar("T", PastMessage, PastRun)
Report = Callable[[Loss], None]


class Export:
    """An open file of exported objects."""

    def __init__(
        self,
        file: BinaryIO,
        index: sqlite3.Connection,
        report: Report,
        *,
        owner_path: Sequence[str] = (),
        most_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._file = file
        self._index = index
        self._report = report
        self._owner_path = owner_path
        self._most_bytes = most_bytes
        self.size = file.seek(0, 2)
        """In bytes."""
        index.execute(_TABLE)

    def scan(self) -> Iterator[int]:
        """Find out which threads there are; yields how many bytes were read so far."""
        self._file.seek(0)
        for line in lines(self._file, most_bytes=self._most_bytes):
            for thread_id in self._threads_in(line):
                place = (thread_id, line.number, line.offset, line.end - line.offset)
                self._index.execute("INSERT INTO places VALUES (?, ?, ?, ?)", place)
            yield line.end

    def _threads_in(self, line: Line) -> set[str]:
        named: set[str] = set()
        for found in objects(line):
            if isinstance(found, UnreadableError):
                self._report(Loss(found.reason, line.number))
            else:
                named.add(found.thread_id)
        return named

    def count(self) -> int:
        """Return how many threads the file names."""
        (found,) = self._index.execute("SELECT count(DISTINCT thread) FROM places").fetchone()
        return int(found)

    def threads(self) -> Iterator[PastThread]:
        """Return them in the order of their first lines."""
        for (thread_id,) in self._index.execute(_THREADS):
            yield self._thread(thread_id)

    def _thread(self, thread_id: str) -> PastThread:
        head: JsonObject = {}
        metadata: JsonObject = {}
        messages, runs = _Gathered[PastMessage](), _Gathered[PastRun]()
        for number, found in self._found(thread_id):
            complain = self._complaint(number, found)
            try:
                if found.kind == THREAD:
                    head, metadata = found.body, decode.metadata(found.body, complain)
                elif found.kind == MESSAGE:
                    messages.add(decode.message(found.body, complain), found)
                else:
                    runs.add(decode.run(found.body, complain), found)
            except UnreadableError as error:
                complain(error.reason)
        told = messages.in_order(
            is_newest_first=_begins_with_an_answer(list(messages.items.values()))
        )
        return PastThread(
            id=thread_id,
            owner=decode.named_at(head, self._owner_path) if self._owner_path else None,
            metadata=metadata,
            created_at=decode.thread_created_at(head),
            messages=told,
            runs=runs.in_order(),
            digest=_digest(told, runs.items.values()),
        )

    def _found(self, thread_id: str) -> Iterator[tuple[int, Found]]:
        places = self._index.execute(_LINES, (thread_id,)).fetchall()
        for number, start, size in places:
            self._file.seek(start)
            line = Line(number, start, start + size, self._file.read(size))
            for found in objects(line):
                # The first pass told of what can't be read.
                if isinstance(found, Found) and found.thread_id == thread_id:
                    yield number, found

    def _complaint(self, line: int, found: Found) -> Callable[[str], None]:
        item = None if found.kind == THREAD else found.id
        return lambda reason: self._report(Loss(reason, line, found.thread_id, item))


class _Gathered(Generic[T]):
    """Messages or runs of one thread, in the order of the file."""

    def __init__(self) -> None:
        self.items: dict[str, T] = {}
        self._in_page = False

    def add(self, item: T, found: Found) -> None:
        """Take one; of one that comes twice the later telling holds, at the earlier place."""
        self.items[item.id] = item
        self._in_page = self._in_page or found.in_page

    def in_order(self, *, is_newest_first: bool | None = None) -> list[T]:
        """Return them by age; those of one second in the order in which the server listed them.

        It counts whole seconds, and lists the newest first unless it is asked not to: which of
        the two the file has, the others' instants tell, else what they are, else how they came.
        """
        items = list(self.items.values())
        steps = [
            (b.created_at > a.created_at) - (b.created_at < a.created_at)
            for a, b in pairwise(items)
        ]
        if sum(steps) != 0:
            is_newest_first = sum(steps) < 0
        elif is_newest_first is None:
            is_newest_first = self._in_page
        if is_newest_first:
            items.reverse()
        return sorted(items, key=lambda item: item.created_at)


def _begins_with_an_answer(messages: Sequence[PastMessage]) -> bool | None:
    """Tell whether a conversation stands there from its end; None if that can't be told."""
    if not messages or messages[0].role is messages[-1].role:
        return None
    return messages[0].role is Role.ASSISTANT


def _digest(messages: Iterable[PastMessage], runs: Iterable[PastRun]) -> bytes:
    held = [f"{item.id} {item.status}" for item in messages]
    held += [f"{item.id} {item.status}" for item in runs]
    return hashlib.sha256("\n".join(sorted(held)).encode()).digest()


@contextmanager
def opened(path: str, report: Report, *, owner_path: Sequence[str] = ()) -> Generator[Export]:
    """Open a file, or with `-` standard input, which is kept in a nameless file meanwhile.

    Raises:
        OSError: It can't be read.
    """
    with ExitStack() as stack:
        file: BinaryIO = (
            sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        )
        if not file.seekable():
            spool = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, spool)
            file = spool
        # A nameless database in a temporary file of SQLite's own, gone when it is closed.
        index = stack.enter_context(closing(sqlite3.connect("")))
        yield Export(file, index, report, owner_path=owner_path)
