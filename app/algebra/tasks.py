"""What a workshop can be asked to do, as a value that crosses a process boundary."""

import struct
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from app.algebra.arithmetic import evaluate
from app.algebra.calculus import differentiate, integrate
from app.algebra.equations import check_equation, solve_equation
from app.algebra.errors import AlgebraError, UnsupportedError
from app.algebra.results import Result
from app.algebra.systems import solve_system

HEADER: Final = struct.Struct(">I")
"""Precedes every pickled task and answer: its length."""

TaskName = Literal[
    "evaluate", "solve_equation", "solve_system", "differentiate", "integrate", "check_equation"
]


@dataclass(frozen=True, slots=True)
class Task:
    """One call of the public API: its name, its texts and its keyword arguments."""

    name: TaskName
    texts: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def perform(task: Task) -> Result:
    """Do the work in this process.

    Raises:
        AlgebraError: The work is refused. Whatever SymPy fails with becomes
            `UnsupportedError`, so that callers have one family to catch.
    """
    try:
        return _perform(task)
    except AlgebraError:
        raise
    except Exception as error:  # SymPy has many of its own, and no common ancestor
        raise UnsupportedError(f"the solver failed: {type(error).__name__}") from error


def _perform(task: Task) -> Result:
    match task.name:
        case "evaluate":
            return evaluate(task.texts[0])
        case "solve_equation":
            return solve_equation(task.texts[0], **task.options)
        case "solve_system":
            return solve_system(task.texts)
        case "differentiate":
            return differentiate(task.texts[0], **task.options)
        case "integrate":
            return integrate(task.texts[0], **task.options)
        case "check_equation":
            return check_equation(task.texts[0], **task.options)
