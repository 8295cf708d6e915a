"""The child of a workshop: reads tasks from a pipe, writes results, one at a time.

Run as `python -m app.algebra.workbench SECONDS`; it ends when its parent closes the pipe,
or by itself when a task takes that long, so that a dead parent leaves no busy orphan.
"""

import faulthandler
import os
import pickle
import sys
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from app.algebra.errors import AlgebraError
from app.algebra.tasks import HEADER, Task, perform

_MAX_MEMORY: Final = 2 * 1024**3
"""Bytes of address space: a calculation that wants more fails instead of swapping."""


def serve(requests: BinaryIO, answers: BinaryIO, limit_s: float, nowhere: TextIO) -> None:
    """Perform tasks until the pipe closes; the first answer says that SymPy is loaded.

    Args:
        requests: Where tasks come from.
        answers: Where results go.
        limit_s: Seconds after which a task ends this process, without the interpreter's
            help; the parent's own, shorter deadline is the one that callers rely on.
        nowhere: Takes the report that Python insists on writing then.
    """
    _write(answers, None)
    while header := requests.read(HEADER.size):
        (length,) = HEADER.unpack(header)
        # our own parent wrote it: no stranger's bytes are unpickled here
        task: Task = pickle.loads(requests.read(length))  # noqa: S301
        faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
        try:
            _write(answers, perform(task))
        except AlgebraError as error:
            _write(answers, type(error)(str(error)))
        finally:
            faulthandler.cancel_dump_traceback_later()


def _write(answers: BinaryIO, value: object) -> None:
    data = pickle.dumps(value)
    answers.write(HEADER.pack(len(data)) + data)
    answers.flush()


def limit_memory() -> None:
    """Bound the address space where the platform can."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 (absent on Windows)

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))


def main() -> None:
    """Serve the standard streams."""
    limit_memory()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]), nowhere)


if __name__ == "__main__":
    main()
