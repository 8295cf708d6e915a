"""A process that has imported the application once, and forks its processes on demand.

Starting Python and importing costs seconds of processor time for each process; hundreds of kills
would be paid for in starts. A fork runs the same command line, with an environment and a log of
its own, in a session of its own; nothing of the application has been started before it.

It reads one JSON object a line: `{"command", "env", "log"}`, answers `{"born": pid}`, and tells
of each end: `{"died": pid, "code": exit code, or the negative signal}`. When its standard input
is closed it kills what is left.
"""

import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any, Final

from app.__main__ import main

LOOK_S: Final = 0.02


def child(order: dict[str, Any]) -> None:
    """Become the process that was ordered; never returns."""
    code = 70
    try:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(order["env"])
        gc.enable()
        code = main(order["command"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def tell(**what: int) -> None:
    """Tell whoever ordered."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def reap(alive: set[int]) -> None:
    """Tell of those that died."""
    while alive:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        alive.discard(pid)
        tell(died=pid, code=os.waitstatus_to_exitcode(status))


def serve() -> None:
    """Fork until the orders end."""
    alive: set[int] = set()
    # A collection in a child would touch, and so copy, everything that it shares.
    gc.collect()
    gc.freeze()
    pending = b""
    while True:
        reap(alive)
        if not select.select([0], [], [], LOOK_S)[0]:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            break
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                child(order)
            alive.add(pid)
            tell(born=pid)
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
