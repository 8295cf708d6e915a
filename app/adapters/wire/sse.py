"""Server-sent events from raw bytes.

Lines end at CR, LF or CRLF and nowhere else: text decoders also split at U+2028, U+0085 and VT,
which stand in students' words.
"""

from typing import Final, NamedTuple

from app.adapters.wire.errors import interrupted

MAX_EVENT_BYTES: Final = 8 << 20


class _Lines:
    """Collects chunks, however they are cut, into whole lines."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._data: list[bytes] = []
        self._size = 0

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes."""
        if self._rest:
            self._rest.append(chunk)
            self._rest_size += len(chunk)
            if b"\n" not in chunk and b"\r" not in self._rest[-2][-1:] + chunk:
                # Inside a line: joining it at every chunk would cost its square.
                self._refuse_huge()
                return []
            chunk = b"".join(self._rest)
        # A CR at the very end may be half of a CRLF.
        whole = not chunk.endswith(b"\r") and chunk.endswith(b"\n")
        lines = chunk.splitlines(keepends=not whole)
        self._rest, self._rest_size = [], 0
        if not whole and lines:
            self._rest = [lines.pop()]
            self._rest_size = len(self._rest[0])
            lines = [line.rstrip(b"\r\n") for line in lines]
        return lines

    def _refuse_huge(self) -> None:
        if self._size + self._rest_size > MAX_EVENT_BYTES:
            raise interrupted("upstream_garbage")


class EventDecoder(_Lines):
    """Collects chunks into the data of whole events."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises:
            UpstreamInterruptedError: An event is larger than anything that we would store.
        """
        events: list[bytes] = []
        for line in self._lines(chunk):
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._data.append(value)
                self._size += len(value)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        self._refuse_huge()
        return events


class NamedEvent(NamedTuple):
    """An event of a dialect whose data does not say of what type it is."""

    name: str
    data: bytes


class NamedEventDecoder(_Lines):
    """Collects chunks into whole events with their names."""

    def __init__(self) -> None:
        super().__init__()
        self._name = b""

    def feed(self, chunk: bytes) -> list[NamedEvent]:
        """Return the events that `chunk` completes.

        Raises:
            UpstreamInterruptedError: An event is larger than anything that we would store.
        """
        events: list[NamedEvent] = []
        for line in self._lines(chunk):
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._data.append(value)
                self._size += len(value)
            elif line.startswith(b"event:"):
                self._name = line[7:] if line.startswith(b"event: ") else line[6:]
            elif not line:
                if self._data:
                    name = self._name.decode(errors="replace")
                    events.append(NamedEvent(name, b"\n".join(self._data)))
                self._name, self._data, self._size = b"", [], 0
        self._refuse_huge()
        return events
