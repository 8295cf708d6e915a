"""Algebra with a hard limit on wall time: a child process that is killed when late.

A thread cannot be stopped while SymPy computes, and would hold the interpreter's lock
besides; a process can be killed. Calls block, so an event loop makes them in a thread.
"""

import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from app.algebra.errors import AlgebraError, DeadlineError
from app.algebra.results import Result
from app.algebra.tasks import HEADER, Task

_ROOT: Final = Path(__file__).parents[2]
"""Where `app` is found, wherever the parent was started."""
_START_S: Final = 60.0
"""Seconds that a child may take to import SymPy on a loaded machine."""
_REMEMBERED: Final = 512
"""Answers kept: a task has one answer, and the same questions come again."""


class Workshop:
    """Performs tasks one after the other, each within a deadline.

    The bound that holds: from the moment that a task's turn has come and the child is
    ready, `run` returns or raises within `deadline_s` and the little that killing takes,
    whatever the task is; a new child starts for the next task. Safe to share by threads.
    """

    def __init__(self, deadline_s: float = 3.0) -> None:
        self._deadline_s = deadline_s
        self._turn = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: OrderedDict[bytes, Result | AlgebraError] = OrderedDict()
        self._is_closed = False

    def start(self) -> None:
        """Start the child, so that the first task need not wait for SymPy's import.

        Raises:
            DeadlineError: The child did not come up.
        """
        with self._turn:
            self._ready()

    def run(self, task: Task) -> Result:
        """Perform one task.

        Raises:
            DeadlineError: It took too long, its process died, or the workshop is closed.
            AlgebraError: It was refused.
        """
        data = pickle.dumps(task)
        with self._turn:
            answer = self._answers.get(data)
            if answer is None:
                message = HEADER.pack(len(data)) + data
                answer = self._receive(self._ready(), self._deadline_s, message)
                self._answers[data] = answer
                if len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)
        if isinstance(answer, AlgebraError):
            # a fresh one: raising the remembered one would pile up its traceback
            raise type(answer)(str(answer))
        return answer

    def close(self) -> None:
        """Kill the child, also in the middle of a task, and refuse later ones."""
        self._is_closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._turn:
            self._stop()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._is_closed:
            raise DeadlineError("the workshop is closed")
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()
        child = self._child = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-m", "app.algebra.workbench", str(2 * self._deadline_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._receive(child, _START_S)
        return child

    def _receive(
        self, child: subprocess.Popen[bytes], limit_s: float, message: bytes = b""
    ) -> Result | AlgebraError:
        """Send a message and read the answer; after the limit the child is dead."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            child.kill()

        alarm = threading.Timer(limit_s, kill)
        alarm.daemon = True
        alarm.start()
        try:
            answer = _talk(child, message)
        except (OSError, EOFError):
            answer = DeadlineError("the calculation broke off")
        finally:
            alarm.cancel()
            alarm.join()
        if late.is_set():
            answer = DeadlineError(f"not done within {limit_s} s")
        if isinstance(answer, DeadlineError):
            self._stop()
            raise answer
        return answer

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        # pipes first: a write that is still buffered must not raise in the destructor
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        child.wait()


def _talk(child: subprocess.Popen[bytes], message: bytes) -> Result | AlgebraError:
    if child.stdin is None or child.stdout is None:
        raise BrokenPipeError
    child.stdin.write(message)
    child.stdin.flush()
    header = child.stdout.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError
    (length,) = HEADER.unpack(header)
    data = child.stdout.read(length)
    if len(data) < length:
        raise EOFError
    # our own child wrote it: no stranger's bytes are unpickled here
    answer: Result | AlgebraError = pickle.loads(data)  # noqa: S301
    return answer
