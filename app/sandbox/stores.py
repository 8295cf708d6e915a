"""Vector stores as a sandbox remembers them: which files are in them, searched by exact words."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.sandbox.errors import invalid
from app.sandbox.ids import new_id
from app.sandbox.jsonio import is_object

MAX_READ: Final = 200_000
"""Bytes of a file that are searched."""
MAX_PASSAGE: Final = 800
"""Characters of one passage."""
MAX_RESULTS: Final = 50
_NONE: Final[dict[str, Any]] = {}
_WORD: Final = re.compile(r"\w+")
_HANGUL: Final = re.compile(r"[가-힣]")
_MIN_WORD: Final = 4
_COMMON: Final = frozenset({
    "about", "does", "from", "have", "into", "says", "tell", "that", "their", "there", "this",
    "what", "when", "where", "which", "with", "would", "your",
})  # fmt: skip


@dataclass(slots=True)
class StoreFile:
    """A file in a store; what is no text can't be searched."""

    id: str
    content: bytes
    filename: str
    chunking: dict[str, Any]
    attributes: dict[str, Any]
    batch_id: str | None
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def text(self) -> str | None:
        """Its text, if it has any."""
        if self.content.startswith(b"%PDF-"):
            return None
        try:
            return self.content.decode()[:MAX_READ]
        except UnicodeDecodeError:
            return None

    @property
    def status(self) -> str:
        """How taking it in ended."""
        return "failed" if self.text is None else "completed"

    def body(self, store_id: str, *, is_new: bool = False) -> dict[str, Any]:
        """Return it as clients see it; while it is new it is being taken in."""
        failed = self.status == "failed" and not is_new
        error = {"code": "unsupported_file", "message": "The file holds no text."}
        return {
            "id": self.id,
            "object": "vector_store.file",
            "created_at": self.created_at,
            "usage_bytes": 0 if is_new or failed else len(self.content),
            "vector_store_id": store_id,
            "status": "in_progress" if is_new else self.status,
            "last_error": error if failed else None,
            "chunking_strategy": self.chunking,
            "attributes": self.attributes,
        }


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file that has words of what was sought."""

    file_id: str
    filename: str
    score: float
    text: str

    def body(self) -> dict[str, Any]:
        """Return it as a result of a search."""
        return {
            "file_id": self.file_id,
            "filename": self.filename,
            "score": self.score,
            "text": self.text,
            "attributes": {},
        }


@dataclass(slots=True)
class VectorStore:
    """A store, and its files by id."""

    name: str
    metadata: dict[str, str]
    expires_after: dict[str, Any] | None
    id: str = field(default_factory=lambda: new_id("vs"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    last_active_at: int = field(default_factory=lambda: int(time.time()))
    files: dict[str, StoreFile] = field(default_factory=dict[str, StoreFile])

    def body(self, *, is_new: bool = False) -> dict[str, Any]:
        """Return the store as clients see it."""
        is_filling = is_new and bool(self.files)
        days = self.expires_after["days"] if self.expires_after else None
        return {
            "id": self.id,
            "object": "vector_store",
            "created_at": self.created_at,
            "name": self.name,
            "usage_bytes": 0 if is_filling else self._bytes(),
            "file_counts": counts(list(self.files.values()), is_new=is_filling),
            "status": "in_progress" if is_filling else "completed",
            "expires_after": self.expires_after,
            "expires_at": None if days is None else self.last_active_at + days * 86_400,
            "last_active_at": self.last_active_at,
            "metadata": self.metadata,
        }

    def _bytes(self) -> int:
        return sum(len(file.content) for file in self.files.values() if file.text is not None)


def counts(files: Sequence[StoreFile], *, is_new: bool = False) -> dict[str, int]:
    """Count files by what became of them."""
    states = ["in_progress" if is_new else file.status for file in files]
    names = ("in_progress", "completed", "failed", "cancelled")
    return {**{name: states.count(name) for name in names}, "total": len(states)}


def search(
    stores: Sequence[VectorStore], wanted: str, tool: Mapping[str, Any]
) -> Sequence[Passage]:
    """Find passages that have words of a text, the best first."""
    words = {word for word in _words(wanted) if _tells(word)}
    options: dict[str, Any] = tool.get("ranking_options") or {}
    least = float(options.get("score_threshold") or 0)
    found: list[Passage] = []
    for store in stores:
        store.last_active_at = int(time.time())
        for file in store.files.values():
            for passage in (file.text or "").split("\n\n"):
                hits = words & _words(passage)
                score = round(len(hits) / len(words), 4) if words else 0.0
                if hits and score >= least:
                    text = passage.strip()[:MAX_PASSAGE]
                    found.append(Passage(file.id, file.filename, score, text))
    found.sort(key=lambda passage: -passage.score)
    return found[: tool.get("max_num_results") or 10]


def read_search(tool: dict[str, Any], param: str) -> dict[str, Any]:
    """Check what a search is told.

    Raises:
        ApiError: A number is out of its range.
    """
    most = tool.get("max_num_results")
    if most is not None and most not in range(1, MAX_RESULTS + 1):
        raise invalid(f"{param}.max_num_results", f"from 1 to {MAX_RESULTS}")
    options = tool.get("ranking_options", _NONE)
    if not is_object(options):
        raise invalid(f"{param}.ranking_options", "an object")
    least = options.get("score_threshold", 0)
    if not isinstance(least, int | float) or not 0 <= least <= 1:
        raise invalid(f"{param}.ranking_options.score_threshold", "from 0 to 1")
    if options.get("ranker", "auto") not in {"none", "auto", "default-2024-11-15"}:
        raise invalid(f"{param}.ranking_options.ranker", "auto or default-2024-11-15")
    return tool


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _tells(word: str) -> bool:
    """Pass over words that stand in every text."""
    if _HANGUL.search(word):
        return len(word) > 1
    return len(word) >= _MIN_WORD and word not in _COMMON
