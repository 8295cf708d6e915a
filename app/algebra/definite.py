"""Integrals between bounds: the fundamental theorem, and proof that it may be used.

F(b) - F(a) is a wrong number when the integrand has a pole or leaves the real numbers in
between, and rules of integration know nothing of bounds. So poles are counted, and what is
a plain number must agree with a sum of strips before it is given to anyone.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from app.algebra.build import build, substitute
from app.algebra.echo import echo
from app.algebra.engine import sympy
from app.algebra.errors import UndefinedError, UnsupportedError
from app.algebra.limits import require_bounded, require_expandable
from app.algebra.parser import parse_expression
from app.algebra.render import Rendered, render
from app.algebra.rough import rough

_STRIPS: Final = (200, 4_000)
"""Strips of Simpson's rule: few first, many for those that oscillate."""
_TOLERANCE: Final = 1e-3
"""Relative difference that strips may leave, as at the edge of a square root."""


@dataclass(frozen=True, slots=True)
class Definite:
    """An integral between bounds: the antiderivative at both, and their difference."""

    bounds: tuple[Rendered, Rendered]
    at_bounds: tuple[Rendered, Rendered]
    value: Rendered


def between(source: Any, antiderivative: Any, unknown: Any, bounds: tuple[str, str]) -> Definite:
    """Evaluate an antiderivative between bounds.

    Args:
        source: The integrand.
        antiderivative: Of it.
        unknown: Integrated over.
        bounds: Texts of the lower and the upper bound.

    Raises:
        UndefinedError: The integrand has a pole or no real value between the bounds.
        UnsupportedError: That cannot be excluded.
        AlgebraError: A text is refused.
    """
    lower, upper = parse_expression(bounds[0]), parse_expression(bounds[1])
    low, high = build(lower), build(upper)
    _require_no_poles(source, unknown, low, high)
    at_lower = _value(substitute(antiderivative, unknown, low))
    at_upper = _value(substitute(antiderivative, unknown, high))
    value = sympy.expand(require_expandable(at_upper - at_lower))
    if low != high:
        _require_confirmed(source, unknown, (low, high), value)
    return Definite(
        bounds=(echo(lower), echo(upper)),
        at_bounds=(render(at_lower), render(at_upper)),
        value=render(value),
    )


def _value(expression: Any) -> Any:
    expression = sympy.expand(require_expandable(require_bounded(expression)))
    if expression.is_number and expression.is_real is False:
        raise UndefinedError("the integrand is not defined between the bounds")
    return expression


def _require_no_poles(source: Any, unknown: Any, low: Any, high: Any) -> None:
    if source.has(sympy.tan):
        raise UnsupportedError("the tangent has poles")
    parts = [part for part in _denominators(source) if part.has(unknown)]
    if not parts:
        return
    if not (low.is_Rational and high.is_Rational):
        raise UnsupportedError("poles cannot be excluded between these bounds")
    for part in parts:
        if _polynomial(part, unknown).count_roots(min(low, high), max(low, high)):
            raise UndefinedError("the integrand has a pole between the bounds")


def _polynomial(part: Any, unknown: Any) -> Any:
    if part.is_polynomial(unknown):
        polynomial = sympy.Poly(sympy.expand(require_expandable(part)), unknown)
        if all(value.is_Rational for value in polynomial.all_coeffs()):
            return polynomial
    raise UnsupportedError("poles cannot be excluded between these bounds")


def _denominators(source: Any) -> list[Any]:
    return [
        node.base
        for node in sympy.preorder_traversal(source)
        if node.is_Pow and node.exp.is_number and node.exp.is_negative
    ]


def _require_confirmed(source: Any, unknown: Any, bounds: tuple[Any, Any], value: Any) -> None:
    if source.is_polynomial(unknown):
        return
    if not all(part.is_number for part in (*bounds, value)) or source.free_symbols - {unknown}:
        raise UnsupportedError("with letters, only polynomials are integrated between bounds")
    try:
        low, high, expected = (rough(part).real for part in (*bounds, value))
        sums = (_simpson(source, unknown, low, high, strips) for strips in _STRIPS)
        size = max(abs(expected), abs(high - low) * 1e-6)
        confirmed = any(abs(total - expected) <= _TOLERANCE * size for total in sums)
    except (ArithmeticError, ValueError, NotImplementedError) as error:
        raise UnsupportedError("the integral could not be confirmed") from error
    if not confirmed:
        raise UnsupportedError("the integral could not be confirmed")


def _simpson(source: Any, unknown: Any, low: float, high: float, strips: int) -> float:
    name, step = str(unknown), (high - low) / strips
    heights: list[float] = []
    for index in range(strips + 1):
        height = rough(source, {name: low + index * step})
        if abs(height.imag) > _TOLERANCE * max(abs(height.real), 1.0):
            raise UndefinedError("the integrand is not real between the bounds")
        heights.append(height.real)
    inner = 4 * math.fsum(heights[1:-1:2]) + 2 * math.fsum(heights[2:-1:2])
    return step / 3 * (heights[0] + inner + heights[-1])
