"""Safe parsing and exact solving of school mathematics; knows nobody.

The functions here run in the caller's process and are bounded by the size of what they
accept. For a hard limit on wall time run them through `Workshop`.
"""

from app.algebra.arithmetic import evaluate
from app.algebra.calculus import differentiate, integrate
from app.algebra.equations import check_equation, solve_equation
from app.algebra.errors import (
    AlgebraError,
    DeadlineError,
    SyntaxRefusedError,
    TooComplexError,
    UndefinedError,
    UnknownNameError,
    UnsupportedError,
)
from app.algebra.nodes import Equation, Node, letters
from app.algebra.parser import parse
from app.algebra.render import Rendered
from app.algebra.results import (
    Derivative,
    EquationCheck,
    EquationSolution,
    Evaluation,
    Integral,
    Quadratic,
    Result,
    Root,
    SystemSolution,
)
from app.algebra.systems import solve_system
from app.algebra.tasks import Task
from app.algebra.workshop import Workshop

__all__ = [
    "AlgebraError",
    "DeadlineError",
    "Derivative",
    "Equation",
    "EquationCheck",
    "EquationSolution",
    "Evaluation",
    "Integral",
    "Node",
    "Quadratic",
    "Rendered",
    "Result",
    "Root",
    "SyntaxRefusedError",
    "SystemSolution",
    "Task",
    "TooComplexError",
    "UndefinedError",
    "UnknownNameError",
    "UnsupportedError",
    "Workshop",
    "check_equation",
    "differentiate",
    "evaluate",
    "integrate",
    "letters",
    "parse",
    "solve_equation",
    "solve_system",
]
