"""Derivatives and integrals of school functions."""

from typing import Any, Final

from app.algebra.build import build
from app.algebra.definite import Definite, between
from app.algebra.echo import echo
from app.algebra.engine import manualintegrate, sympy
from app.algebra.equations import choose_variable
from app.algebra.errors import (
    SyntaxRefusedError,
    TooComplexError,
    UnsupportedError,
)
from app.algebra.limits import require_bounded, require_expandable
from app.algebra.parser import parse_expression
from app.algebra.render import Rendered, render
from app.algebra.results import Derivative, Integral

MAX_ORDER: Final = 6
"""Highest order of a derivative."""
_MAX_INTEGRAND: Final = 60
"""Nodes of an integrand; integration by rules branches, so it is kept small."""


_KNOWN: Final[tuple[Any, ...]] = (
    sympy.sin,
    sympy.cos,
    sympy.tan,
    sympy.asin,
    sympy.acos,
    sympy.atan,
    sympy.log,
    sympy.exp,
    sympy.Abs,
)
"""Functions of school; others, such as erf, are no answer for a student."""


def differentiate(text: str, variable: str | None = None, order: int = 1) -> Derivative:
    """Differentiate an expression.

    Args:
        text: The function, such as `x^3 + sin(x)`.
        variable: By default x, or the only letter there is.
        order: How often, 1 to 6.

    Raises:
        AlgebraError: The text is refused, or the derivative grows too large.
    """
    if not 1 <= order <= MAX_ORDER:
        raise TooComplexError(f"the order must be 1 to {MAX_ORDER}")
    written = parse_expression(text)
    source = build(written)
    unknown = choose_variable(source, variable)
    value = source
    for _ in range(order):
        value = require_bounded(sympy.diff(value, unknown))
    first = [(term, sympy.diff(term, unknown)) for term in source.as_ordered_terms()]
    return Derivative(
        source=echo(written),
        variable=str(unknown),
        order=order,
        value=render(_tidy(value, unknown)),
        terms=tuple((render(term), render(result)) for term, result in first),
    )


def integrate(
    text: str,
    variable: str | None = None,
    lower: str | None = None,
    upper: str | None = None,
) -> Integral:
    """Find an antiderivative and, between bounds, the definite integral.

    Args:
        text: The integrand, such as `x^2 + 1`.
        variable: By default x, or the only letter there is.
        lower: Lower bound; both bounds or none.
        upper: Upper bound.

    Raises:
        UnsupportedError: No rule of school mathematics applies, or poles between the
            bounds cannot be excluded.
        AlgebraError: A text is refused, or the integrand has a pole between the bounds.
    """
    if (lower is None) != (upper is None):
        raise SyntaxRefusedError("both bounds, or none")
    written = parse_expression(text)
    source = build(written)
    if sum(1 for _ in sympy.preorder_traversal(source)) > _MAX_INTEGRAND:
        raise TooComplexError("the integrand is too long")
    unknown = choose_variable(source, variable)
    terms = [(term, _antiderivative(term, unknown)) for term in _terms(source, unknown)]
    antiderivative = require_bounded(sympy.Add(*(result for _, result in terms)))
    definite: Definite | None = None
    if lower is not None and upper is not None:
        definite = between(source, antiderivative, unknown, (lower, upper))
    return Integral(
        source=echo(written),
        variable=str(unknown),
        antiderivative=render(antiderivative),
        bounds=None if definite is None else definite.bounds,
        at_bounds=None if definite is None else definite.at_bounds,
        value=None if definite is None else definite.value,
        terms=tuple(_pair(term, result) for term, result in terms),
    )


def _pair(term: Any, result: Any) -> tuple[Rendered, Rendered]:
    return render(term), render(result)


def _tidy(value: Any, unknown: Any) -> Any:
    if value.is_polynomial(unknown):
        return sympy.expand(require_expandable(value))
    return value


def _terms(source: Any, unknown: Any) -> list[Any]:
    if source.is_polynomial(unknown):
        source = sympy.expand(require_expandable(source))
    return list(source.as_ordered_terms())


def _antiderivative(term: Any, unknown: Any) -> Any:
    result = manualintegrate(term, unknown)
    if result.has(sympy.Piecewise):
        raise UnsupportedError("the antiderivative depends on cases")
    if not all(isinstance(part, _KNOWN) for part in result.atoms(sympy.Function, sympy.Integral)):
        raise UnsupportedError("no rule of school mathematics integrates this")
    if term.has(sympy.log):
        return result
    # ln|u| is right on both sides of a pole, ln(u) on one only
    return result.replace(sympy.log, _logarithm_of_size)


def _logarithm_of_size(inner: Any) -> Any:
    return sympy.log(sympy.Abs(inner))
