"""Systems of linear equations."""

from collections.abc import Sequence
from typing import Any, Final

from app.algebra.build import build
from app.algebra.echo import echo
from app.algebra.engine import sympy
from app.algebra.errors import SyntaxRefusedError, TooComplexError, UnsupportedError
from app.algebra.limits import require_expandable
from app.algebra.parser import parse_equation
from app.algebra.render import render
from app.algebra.results import SystemKind, SystemSolution

MAX_EQUATIONS: Final = 6
"""Equations, and unknowns, of one system."""


def solve_system(texts: Sequence[str]) -> SystemSolution:
    """Solve linear equations for all the letters in them.

    Args:
        texts: One equation each, such as `x + y = 10` and `x - y = 2`.

    Raises:
        UnsupportedError: An equation is not linear with numbers as coefficients.
        AlgebraError: A text is refused.
    """
    if not texts:
        raise SyntaxRefusedError("no equations")
    if len(texts) > MAX_EQUATIONS:
        raise TooComplexError(f"more than {MAX_EQUATIONS} equations")
    equations = [parse_equation(text) for text in texts]
    differences = [
        sympy.expand(require_expandable(build(equation.left) - build(equation.right)))
        for equation in equations
    ]
    unknowns = _unknowns(differences)
    if not unknowns:
        raise UnsupportedError("no unknowns")
    if len(unknowns) > MAX_EQUATIONS:
        raise TooComplexError(f"more than {MAX_EQUATIONS} unknowns")
    solution = _solve(differences, unknowns)
    kind: SystemKind = "none"
    values: list[tuple[Any, Any]] = []
    if solution is not None:
        values = [pair for pair in zip(unknowns, solution, strict=True) if pair[0] != pair[1]]
        kind = "unique" if len(values) == len(unknowns) and _constant(values) else "infinite"
    return SystemSolution(
        equations=tuple((echo(each.left), echo(each.right)) for each in equations),
        variables=tuple(str(unknown) for unknown in unknowns),
        kind=kind,
        values=tuple((str(name), render(value)) for name, value in values),
    )


def _unknowns(differences: list[Any]) -> list[Any]:
    found: set[Any] = set()
    for difference in differences:
        found |= difference.free_symbols
    return sorted(found, key=str)


def _constant(values: list[tuple[Any, Any]]) -> bool:
    return all(not value.free_symbols for _, value in values)


def _solve(differences: list[Any], unknowns: list[Any]) -> tuple[Any, ...] | None:
    for difference in differences:
        polynomial = _polynomial(difference, unknowns)
        if polynomial.total_degree() > 1:
            raise UnsupportedError("not a linear system")
        if not all(value.is_Rational for value in polynomial.coeffs()):
            raise UnsupportedError("only rational numbers as coefficients")
    for solution in sympy.linsolve(differences, unknowns):
        return tuple(solution)
    return None


def _polynomial(difference: Any, unknowns: list[Any]) -> Any:
    try:
        return sympy.Poly(difference, *unknowns)
    except sympy.PolynomialError as error:
        raise UnsupportedError("not a linear system") from error
