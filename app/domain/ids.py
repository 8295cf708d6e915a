"""Opaque public ids: a prefix that says what it names, then 96 random bits.

No order may be read from an id: order is `seq`, or the database's clock.
"""

import re
import secrets
from typing import Final

USER: Final = "user"
ASSISTANT: Final = "asst"
SESSION: Final = "sess"
MESSAGE: Final = "msg"
RUN: Final = "run"
STEP: Final = "step"
FILE: Final = "file"
STORE: Final = "vs"
BATCH: Final = "vsfb"
WORKER: Final = "work"

_SHAPE: Final = re.compile(r"[a-z]{2,8}_[0-9A-Za-z]{1,64}")


def new_id(prefix: str) -> str:
    """Return a fresh id such as `sess_6f0c…`."""
    return f"{prefix}_{secrets.token_hex(12)}"


def is_id(text: str) -> bool:
    """Tell whether `text` could be an id at all; what can't be one is never looked up."""
    return _SHAPE.fullmatch(text) is not None
