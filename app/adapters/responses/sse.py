"""Server-sent events from raw bytes.

Lines end at CR, LF or CRLF and nowhere else: text decoders also split at U+2028, U+0085 and VT,
which stand in students' words.
"""

from typing import Final

from app.domain.errors import UpstreamInterruptedError

MAX_EVENT_BYTES: Final = 8 << 20


class EventDecoder:
    """Collects chunks, however they are cut, into the data of whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises:
            UpstreamInterruptedError: An event is larger than anything that we would store.
        """
        buffered = self._rest + chunk if self._rest else chunk
        # A CR at the very end may be half of a CRLF.
        whole = not buffered.endswith(b"\r") and buffered.endswith(b"\n")
        lines = buffered.splitlines(keepends=not whole)
        self._rest = b""
        if not whole and lines:
            self._rest = lines.pop()
            lines = [line.rstrip(b"\r\n") for line in lines]
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._data.append(value)
                self._size += len(value)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamInterruptedError(code="upstream_garbage")
        return events
