"""Values in floating point, to look before SymPy leaps into exact evaluation."""

import cmath
import math
from collections.abc import Mapping
from typing import Any, Final

from app.algebra.engine import sympy

_MAX_INTERMEDIATE: Final = 1e100
"""Beyond it inside an expression, evaluating exactly could take for ever."""
_ROUGH: Final[dict[str, Any]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
    "log": cmath.log,
    "exp": cmath.exp,
    "Abs": abs,
}
_ROUGH_CONSTANTS: Final[dict[Any, complex]] = {
    sympy.pi: complex(math.pi),
    sympy.E: complex(math.e),
    sympy.I: 1j,
}


def rough(expression: Any, values: Mapping[str, float] | None = None) -> complex:
    """Compute in floating point, without SymPy's exact evaluation.

    Args:
        expression: Of the functions that the parser knows.
        values: Numbers for its variables.

    Raises:
        ArithmeticError: The value, or one on the way, is too large or undefined.
        ValueError: A function has no value there.
        NotImplementedError: A function or variable is not known.
    """
    value = _rough(expression, values or {})
    if abs(value) > _MAX_INTERMEDIATE:
        raise OverflowError("too large to be shown")
    return value


def _rough(expression: Any, values: Mapping[str, float]) -> complex:
    name = str(expression) if expression.is_Symbol else type(expression).__name__
    parts = [rough(part, values) for part in expression.args]
    if expression.is_Rational:
        value = complex(int(expression.p) / int(expression.q))
    elif expression.is_Add:
        value = sum(parts, 0j)
    elif expression.is_Mul:
        value = math.prod(parts, start=1 + 0j)
    elif expression.is_Pow:
        value = parts[0] ** parts[1]
    elif expression in _ROUGH_CONSTANTS:
        value = _ROUGH_CONSTANTS[expression]
    elif name in _ROUGH and parts:
        value = complex(_ROUGH[name](parts[0]))
    elif name in values:
        value = complex(values[name])
    else:
        raise NotImplementedError(name)
    return value
