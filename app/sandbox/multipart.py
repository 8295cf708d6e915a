"""A multipart form, read whole: the sandbox keeps what it is sent anyway."""

import re
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from app.sandbox.errors import ApiError

_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;]{1,200}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')
_FORM_BYTES: Final = 64 * 1024
"""Room for what is no file: fields, headers and boundaries."""


@dataclass(frozen=True, slots=True)
class Field:
    """One part of a form; a file has a name of its own."""

    content: bytes
    filename: str | None


async def read_form(request: Request, limit: int) -> dict[str, Field]:
    """Read a form with one file of at most `limit` bytes.

    Raises:
        ApiError: It is no multipart form, cut off, or too large.
    """
    kind = request.headers.get("content-type", "")
    found = _BOUNDARY.search(kind)
    if found is None or not kind.lower().startswith("multipart/form-data"):
        raise ApiError(415, "Invalid Content-Type header: expected multipart/form-data.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit + _FORM_BYTES:
            raise ApiError(413, f"Maximum content size limit ({limit}) exceeded.")
    return _split(bytes(body), (found[1] or found[2]).encode())


def _split(body: bytes, boundary: bytes) -> dict[str, Field]:
    delimiter = b"\r\n--" + boundary
    # the first delimiter has no line before it
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):  # noqa: PLR2004 - before and after
        raise ApiError(400, "Could not parse multipart form.")
    fields: dict[str, Field] = {}
    for piece in pieces[1:-1]:
        head, separator, content = piece.partition(b"\r\n\r\n")
        names = {bytes(key): bytes(value) for key, value in _PARAMETER.findall(head)}
        if not separator or b"name" not in names:
            raise ApiError(400, "Could not parse multipart form.")
        filename = names.get(b"filename")
        fields[names[b"name"].decode(errors="replace")] = Field(
            content, None if filename is None else _unquoted(filename)
        )
    return fields


def _unquoted(name: bytes) -> str:
    """Read both ways of writing a quote: as browsers do, and with a backslash."""
    return re.sub(r"\\(.)", r"\1", name.decode(errors="replace").replace("%22", '"'))
