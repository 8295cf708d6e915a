"""Values of expressions: arithmetic, and multiplying out where letters remain."""

from typing import Any, Final

from app.algebra.build import build
from app.algebra.echo import echo
from app.algebra.engine import sympy
from app.algebra.limits import extent, require_bounded, require_expandable
from app.algebra.parser import parse_expression
from app.algebra.render import render
from app.algebra.results import Evaluation

_MAX_REDUCED: Final = 12
"""Degree up to which a fraction with letters is reduced: common divisors cost more."""


def evaluate(text: str) -> Evaluation:
    """Compute an expression exactly; with letters in it, multiply it out.

    Args:
        text: Such as `2(3 + 4)^2 / 7` or `(x+1)(x-1)`.

    Raises:
        AlgebraError: The text is refused, or the value is not defined.
    """
    source = parse_expression(text)
    value = _simplified(build(source))
    return Evaluation(
        source=echo(source),
        value=render(value),
        is_number=bool(value.is_number),
        is_real=value.is_real is not False,
    )


def _simplified(expression: Any) -> Any:
    if expression.is_number:
        return require_bounded(sympy.radsimp(sympy.expand(require_expandable(expression))))
    if expression.is_rational_function() and not expression.is_polynomial():
        joined = sympy.together(expression)
        if extent(joined)[1] <= _MAX_REDUCED:
            return require_bounded(sympy.cancel(joined))
    return require_bounded(sympy.expand(require_expandable(expression)))
