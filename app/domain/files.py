"""What a file is, by its bytes; and the name that it is given here."""

import codecs
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from app.domain.errors import FileRefusedError
from app.domain.models import JsonObject
from app.domain.text import rfc3339

HEAD_BYTES: Final = 16
"""What must be read of a file to tell what it is."""
MAX_NAME: Final = 255
"""Characters of a name; of what is longer the end is kept, with the extension."""

TYPES: Final = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "pdf": "application/pdf",
    "text": "text/plain",
}
"""The kinds that there are, by the name that a setting may give them."""

_EXTENSIONS: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpe": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "pdf": "application/pdf",
}
_TEXTS: Final = frozenset({"txt", "md", "csv", "tsv", "tex", "json", "jsonl", "xml", "html", "py"})
_OTHERS: Final = frozenset(
    {
        "exe", "dll", "zip", "gz", "tar", "7z", "rar", "doc", "docx", "xls", "xlsx", "ppt", "pptx",
        "odt", "ods", "bmp", "tif", "tiff", "svg", "heic", "avif", "ico", "mp3", "mp4", "wav",
        "avi", "mov", "jar", "class", "so", "bin", "iso",
    }
)  # fmt: skip
"""Extensions of what is never taken: nothing that is may call itself so."""
_SEPARATORS: Final = re.compile(r"[/\\]")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""No text has them, and most of what is none does."""
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def sniff(head: bytes) -> str:
    """Return the media type that the first bytes of a file show; what shows none may be text."""
    match head:
        case _ if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return "image/png"
        case _ if head.startswith(b"\xff\xd8\xff"):
            return "image/jpeg"
        case _ if head.startswith((b"GIF87a", b"GIF89a")):
            return "image/gif"
        case _ if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return "image/webp"
        case _ if head.startswith(b"%PDF-"):
            return "application/pdf"
        case _:
            return "text/plain"


def clean_name(name: str) -> str:
    """Return a file's name: one line, no folders, at most 255 characters.

    Raises:
        FileRefusedError: Nothing is left of it.
    """
    last = _SEPARATORS.split(unicodedata.normalize("NFC", name))[-1]
    kept = "".join(c for c in last if unicodedata.category(c) not in _INVISIBLE).strip()[
        -MAX_NAME:
    ]
    if not kept.strip("."):
        raise FileRefusedError("The file needs a name.")
    return kept


def check_name(name: str, media_type: str) -> None:
    """Refuse a name that says the file is something else than its bytes do.

    Raises:
        FileRefusedError: It does.
    """
    _, dot, extension = name.rpartition(".")
    extension = extension.lower() if dot else ""
    claimed = _EXTENSIONS.get(extension)
    if extension in _TEXTS:
        claimed = "text/plain"
    if extension in _OTHERS or claimed not in {None, media_type}:
        raise FileRefusedError("The file is not what its name says that it is.")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A user's file: what is known of it here. Its content is the upstream's to keep."""

    id: str
    user_id: str
    filename: str
    size: int
    """Bytes."""
    media_type: str
    """What its first bytes say that it is."""
    purpose: str | None
    """What it is for, in the Assistants API's words; None: what its kind is usually for."""
    created_at: datetime | None = None

    @property
    def is_image(self) -> bool:
        """Whether it can be looked at."""
        return self.media_type.startswith("image/")

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "id": self.id,
            "object": "file",
            "filename": self.filename,
            "bytes": self.size,
            "media_type": self.media_type,
            "created_at": self.created_at and rfc3339(self.created_at),
        }


@dataclass(slots=True)
class Inspection:
    """Looks at a file as it passes: refuses what is empty, not allowed, or not what it seems.

    Attributes:
        name: As `clean_name` gave it.
        allowed: Media types that are taken.
        size: Bytes that have passed.
        media_type: Known from the first piece on.
    """

    name: str
    allowed: frozenset[str]
    size: int = 0
    media_type: str = ""
    _text: codecs.IncrementalDecoder | None = field(default=None, repr=False)

    def begin(self, head: bytes) -> None:
        """Look at the first bytes, `HEAD_BYTES` of them if there are so many.

        Raises:
            FileRefusedError: They are not taken.
        """
        if not head:
            raise FileRefusedError("The file is empty.")
        self.media_type = sniff(head)
        if self.media_type == "text/plain":
            self._text = codecs.getincrementaldecoder("utf-8")()
        if self.media_type not in self.allowed:
            raise FileRefusedError("Files of this type are not taken.")
        check_name(self.name, self.media_type)

    def feed(self, piece: bytes, *, last: bool = False) -> None:
        """Look at the next piece.

        Raises:
            FileRefusedError: A text is no text.
        """
        self.size += len(piece)
        if self._text is None:
            return
        try:
            self._text.decode(piece, last)
        except UnicodeDecodeError:
            raise FileRefusedError("Files of this type are not taken.") from None
        if _CONTROLS.search(piece):
            raise FileRefusedError("Files of this type are not taken.")
