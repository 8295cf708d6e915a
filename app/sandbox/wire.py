"""Events as bytes, made once; no model is built per event."""

import json
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

from app.sandbox.jsonio import dump

_PADDING: Final = secrets.token_urlsafe(256)
_PAD_TO: Final = 16
_PADDED: Final = re.compile(rb',"obfuscation":"[^"]*"\}\n\n\Z')
_TOKEN: Final = re.compile(r"\s*\w{1,4}|\s*[^\w\s]{1,3}|\s+")


def split_tokens(text: str) -> list[str]:
    """Cut a text into pieces of about a model's token; joined they are the text."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Estimate a text's tokens."""
    return sum(1 for _ in _TOKEN.finditer(text))


def sse(event: dict[str, Any]) -> bytes:
    """Encode one event; without `id:`, as the upstream does."""
    return b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), dump(event))


class DeltaEncoder:
    """Encodes the deltas of one item: only text and number differ between them."""

    def __init__(self, kind: str, constant: dict[str, Any], *, obfuscate: bool) -> None:
        head = json.dumps({"type": kind, **constant}, separators=(",", ":"))
        self._head = f"event: {kind}\ndata: {head[:-1]},"
        self._obfuscate = obfuscate

    def encode(self, delta: str, sequence_number: int) -> bytes:
        """Encode one delta."""
        text = f'{self._head}"delta":{json.dumps(delta)},"sequence_number":{sequence_number}'
        if self._obfuscate:
            start = sequence_number % 128
            padding = _PADDING[start : start + _PAD_TO - len(delta) % _PAD_TO]
            text += f',"obfuscation":"{padding}"'
        return (text + "}\n\n").encode()


async def without_padding(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield recorded events to a reader who declined their padding."""
    async for event in events:
        yield _PADDED.sub(b"}\n\n", event)
