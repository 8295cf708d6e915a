"""The command line, and SIGUSR1 tells what it holds: tasks, readers, as JSON in a file.

It stands in for `python -m app` where a test counts what no client can see.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from app.__main__ import main
from app.services.relay import Relay
from app.services.streams import Stream

FILE = "OBSERVED_IN"


def _tell(*_: Any) -> None:
    gc.collect()
    objects = gc.get_objects()
    relays = [each for each in objects if isinstance(each, Relay)]
    told = {
        "tasks": len(asyncio.all_tasks()),
        "channels": sum(len(each._channels) for each in relays),  # noqa: SLF001
        "readers": sum(each._counts.total() for each in relays),  # noqa: SLF001
        "streams": sum(isinstance(each, Stream) for each in objects),
    }
    path = Path(os.environ[FILE])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(told))
    draft.rename(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main())
