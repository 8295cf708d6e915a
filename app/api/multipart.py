"""A form with one file in it, read in pieces: no file is ever held whole.

RFC 7578, as browsers and SDKs write it. What of a form is no file is bounded to 64 KiB.
"""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

FORM_BYTES: Final = 64 * 1024
"""For all of a form but its file."""
_BOUNDARY: Final = re.compile(r'boundary=(?:"([ -~]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r'(?:^|;)\s*(name|filename)="((?:[^"\\]|\\.)*)"')
_MEDIA_TYPE: Final = "multipart/form-data"


class FormError(HTTPException):
    """The body is no such form."""

    def __init__(self, status: int = 400) -> None:
        # The connection stays: what is still being sent is passed over, and the refusal is read.
        super().__init__(status)


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """Read a request's body in pieces.

    Raises:
        FormError: The client went away.
    """
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise FormError from None


class UploadForm:
    """A form, read up to its file, then the file, then the rest.

    Attributes:
        filename: The file's name, once `begin` has found it.
        fields: The other fields; those behind the file appear once it has been read.
    """

    def __init__(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> None:
        content_type = headers.get("content-type", "")
        found = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith(_MEDIA_TYPE) or found is None:
            raise FormError(415)
        self._delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
        self._body = body
        # The first delimiter has no line before it.
        self._rest = bytearray(b"\r\n")
        self._room = FORM_BYTES
        self._files = 0
        self.filename = ""
        self.fields: dict[str, str] = {}

    async def begin(self) -> AsyncIterator[bytes] | None:
        """Read up to the file; return its content, or None if the form has none.

        Raises:
            FormError: The body is no form, or too much of it is no file.
        """
        if (await self._until(self._delimiter)).strip():
            raise FormError
        return self._file() if await self._next_file() else None

    async def _next_file(self) -> bool:
        """Read fields up to the next file; False at the form's end."""
        while True:
            await self._fill(2)
            if self._rest.startswith(b"--"):
                async for _ in self._body:
                    # An epilogue means nothing; unread, it would be taken for a request.
                    pass
                return False
            head = (await self._until(b"\r\n\r\n")).decode("utf-8", "replace")
            named = _names(head)
            if "name" not in named:
                raise FormError
            if "filename" in named and named["name"] == "file":
                self._files += 1
                if self._files > 1:
                    raise FormError
                self.filename = named["filename"]
                return True
            value = await self._until(self._delimiter)
            if named["name"] in self.fields:
                raise FormError
            self.fields[named["name"]] = value.decode("utf-8", "replace")

    async def _file(self) -> AsyncIterator[bytes]:
        keep = len(self._delimiter) - 1
        while (at := self._rest.find(self._delimiter)) < 0:
            # What may be the beginning of a delimiter waits for the next piece.
            ready = len(self._rest) - keep
            if ready > 0:
                piece = bytes(self._rest[:ready])
                del self._rest[:ready]
                yield piece
            await self._more()
        last = bytes(self._rest[:at])
        del self._rest[: at + len(self._delimiter)]
        if last:
            yield last
        await self._next_file()

    async def _until(self, mark: bytes) -> bytes:
        """Read up to a mark and beyond it; return what is before it."""
        while (at := self._rest.find(mark)) < 0:
            if len(self._rest) > self._room:
                raise FormError(413)
            await self._more()
        found = bytes(self._rest[:at])
        self._room -= at + len(mark)
        if self._room < 0:
            raise FormError(413)
        del self._rest[: at + len(mark)]
        return found

    async def _fill(self, size: int) -> None:
        while len(self._rest) < size:
            await self._more()

    async def _more(self) -> None:
        piece = await anext(self._body, None)
        if piece is None:
            # Cut off: what came of it must not be taken for the whole.
            raise FormError
        self._rest += piece


def _names(head: str) -> dict[str, str]:
    """Return the name and the file's name that a part's headers give."""
    for line in head.split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            return {name: _unescaped(text) for name, text in _PARAMETER.findall(value)}
    return {}


def _unescaped(text: str) -> str:
    """Read what browsers write (`%22`) and what others do (a backslash) for a quote."""
    return re.sub(r"\\(.)", r"\1", text.replace("%22", '"').replace("%0D", "").replace("%0A", ""))
