"""Files in messages: those that are there, and what an offline tutor can read of them."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from app.sandbox.errors import ApiError
from app.sandbox.items import Item, text_of
from app.sandbox.jsonio import is_array, is_object
from app.sandbox.state import State

_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
MAX_READ: Final = 20_000
"""Bytes of a text that are read."""


def require_files(state: State, items: Iterable[Item]) -> None:
    """Refuse a turn that shows a file which is not there, or no picture as a picture.

    Raises:
        ApiError: 400; also when what an earlier turn showed was deleted.
    """
    for item in items:
        for part in _files(item):
            file_id = str(part["file_id"])
            file = next((f for f in state.living_files() if f.id == file_id), None)
            if file is None:
                raise ApiError(
                    400, f"Files ['{file_id}'] were not found.", param="input", code="not_found"
                )
            if part["type"] == "input_image" and not file.content.startswith(_PICTURES):
                raise ApiError(
                    400,
                    "The image data you provided does not represent a valid image.",
                    param="input",
                    code="invalid_image",
                )


def words_of(state: State, item: Item) -> str:
    """Return a message's text, and that of the texts that are attached to it."""
    found = [text_of(item)]
    for part in _files(item):
        file = state.files.get(str(part["file_id"]))
        if file is not None and part["type"] == "input_file" and not _is_unreadable(file.content):
            found.append(file.content[:MAX_READ].decode(errors="ignore"))
    return "\n".join(text for text in found if text)


def shows_unreadable(state: State, item: Item) -> bool:
    """Tell whether a message shows what has to be seen."""
    for part in _parts(item):
        if part["type"] == "input_image":
            return True
        file = state.files.get(str(part.get("file_id")))
        if part["type"] == "input_file" and (file is None or _is_unreadable(file.content)):
            return True
    return False


def _is_unreadable(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return True
    return content.startswith(b"%PDF-")


def _files(item: Item) -> Iterator[dict[str, Any]]:
    return (part for part in _parts(item) if isinstance(part.get("file_id"), str))


def _parts(item: Item) -> Iterator[dict[str, Any]]:
    content = item.get("content")
    if is_array(content):
        yield from (
            part
            for part in content
            if is_object(part) and part.get("type") in {"input_image", "input_file"}
        )
