"""Equations in one unknown: linear and quadratic with steps, polynomials by factors."""

from typing import Any, Final, Literal

from app.algebra.build import build, symbol
from app.algebra.echo import echo
from app.algebra.engine import sympy
from app.algebra.errors import TooComplexError, UndefinedError, UnsupportedError
from app.algebra.limits import require_expandable
from app.algebra.parser import parse_equation, parse_expression
from app.algebra.render import render
from app.algebra.results import EquationCheck, EquationKind, EquationSolution, Quadratic, Root
from app.algebra.roots import QUADRATIC, find_roots
from app.algebra.rough import rough

MAX_DEGREE: Final = 12
"""Highest degree of a polynomial equation that is factored."""
_PREFERRED: Final = "xyztn"


def solve_equation(text: str, variable: str | None = None) -> EquationSolution:
    """Solve an equation for one unknown, over the complex numbers.

    Args:
        text: Such as `3x**2 + 11x - 10 = 0`.
        variable: The unknown; by default x, or the only letter there is. Other letters
            are constants, as in `ax + b = 0`.

    Returns:
        The solution; exact, except for polynomial factors of degree above two.

    Raises:
        UnsupportedError: The unknown stands in a root, an exponent or a function.
        AlgebraError: The text is refused.
    """
    equation = parse_equation(text)
    difference = require_expandable(build(equation.left) - build(equation.right))
    unknown = choose_variable(difference, variable)
    above, below = _fraction(difference)
    polynomial = _polynomial(above, unknown)
    excluded = _zeros(below, unknown)
    kind = _kind(polynomial)
    roots: list[Root] = []
    quadratic: Quadratic | None = None
    if kind == "quadratic":
        quadratic = _steps(polynomial)
    if kind in {"linear", "quadratic", "polynomial"}:
        exact = find_roots(polynomial)
        roots = [root for value, root in exact if value not in excluded]
    return EquationSolution(
        left=echo(equation.left),
        right=echo(equation.right),
        variable=str(unknown),
        kind=kind,
        standard=render(polynomial.as_expr()),
        coefficients=tuple(render(value) for value in polynomial.all_coeffs()),
        # those of the quadratic formula stay in its order, plus before minus
        roots=tuple(sorted(roots, key=_order) if kind == "polynomial" else roots),
        quadratic=quadratic,
        excluded=tuple(render(value) for value in excluded),
    )


def check_equation(text: str, values: dict[str, str] | None = None) -> EquationCheck:
    """Put values into an equation and tell whether both sides are equal.

    Args:
        text: An equation, such as `2x + 1 = 7`.
        values: Expressions by variable, such as `{"x": "3"}`; letters without a value
            stay, and the sides must then agree for all of them.

    Raises:
        AlgebraError: A text is refused, or a side is not defined at these values.
    """
    equation = parse_equation(text)
    given = {name: build(parse_expression(value)) for name, value in (values or {}).items()}
    left, right = (build(side, given) for side in (equation.left, equation.right))
    difference = sympy.expand(require_expandable(left - right))
    if difference != 0 and not difference.is_number:
        difference = sympy.numer(sympy.together(difference))
        difference = sympy.expand(require_expandable(difference))
    return EquationCheck(
        source=(echo(equation.left), echo(equation.right)),
        left=render(left),
        right=render(right),
        holds=_is_zero(difference),
    )


def _is_zero(difference: Any) -> bool:
    """Tell whether an expanded difference is zero, proving it only where it may be."""
    if difference == 0 or not difference.is_number:
        return bool(difference == 0)
    try:
        rough(difference)
    except (ArithmeticError, ValueError, NotImplementedError):
        return bool(difference.equals(0))
    # a proof simplifies for seconds; SymPy refines a decimal until its digits are right, and
    # gives one bit of precision to what it cannot tell from zero
    parts = difference.evalf(5).as_real_imag()
    if any(part.is_Float and part != 0 and part._prec > 1 for part in parts):  # noqa: SLF001
        return False
    return bool(difference.equals(0))


def choose_variable(expression: Any, name: str | None) -> Any:
    """Pick the unknown of an expression; x if nothing tells.

    Raises:
        UnsupportedError: The wanted letter does not occur.
    """
    letters = sorted(str(letter) for letter in expression.free_symbols)
    if name is not None:
        if letters and name not in letters:
            raise UnsupportedError(f"{name} does not occur")
        return symbol(name)
    preferred = [letter for letter in _PREFERRED if letter in letters]
    return symbol((preferred or letters or ["x"])[0])


def _fraction(difference: Any) -> tuple[Any, Any]:
    """Bring everything over one denominator."""
    above, below = sympy.fraction(sympy.together(difference))
    return sympy.expand(require_expandable(above)), sympy.expand(require_expandable(below))


def _polynomial(above: Any, unknown: Any) -> Any:
    try:
        polynomial = sympy.Poly(above, unknown)
    except sympy.PolynomialError as error:
        raise UnsupportedError("not a polynomial equation") from error
    # before anything lists all coefficients: a sparse polynomial may have billions
    if polynomial.degree() > MAX_DEGREE:
        raise TooComplexError(f"an equation of degree above {MAX_DEGREE}")
    if any(coefficient.has(unknown) for coefficient in polynomial.all_coeffs()):
        raise UnsupportedError("not a polynomial equation")
    return polynomial


def _zeros(below: Any, unknown: Any) -> list[Any]:
    if not below.has(unknown):
        return []
    polynomial = _polynomial(below, unknown)
    return [value for value, root in find_roots(polynomial) if root.is_exact]


def _kind(polynomial: Any) -> EquationKind:
    degree = polynomial.degree()
    if polynomial.is_zero:
        return "identity"
    if degree == 0:
        return "contradiction"
    if degree == 1:
        return "linear"
    return "quadratic" if degree == QUADRATIC else "polynomial"


def _order(root: Root) -> tuple[bool, float, str]:
    return not root.is_real, root.value.approx or 0.0, root.value.plain


def _steps(polynomial: Any) -> Quadratic:
    a, b, c = polynomial.all_coeffs()
    if a == 0:
        raise UndefinedError("no quadratic term")
    discriminant = sympy.expand(b**2 - 4 * a * c)
    rational = all(value.is_Rational for value in (a, b, c))
    factored = None
    if rational and discriminant >= 0 and sympy.sqrt(discriminant).is_Rational:
        factored = render(sympy.factor(polynomial.as_expr()))
    sign: Literal[-1, 0, 1] | None = None
    if discriminant.is_positive:
        sign = 1
    elif discriminant.is_zero:
        sign = 0
    elif discriminant.is_negative:
        sign = -1
    return Quadratic(
        a=render(a),
        b=render(b),
        c=render(c),
        b_squared=render(sympy.expand(b**2)),
        four_ac=render(sympy.expand(4 * a * c)),
        discriminant=render(discriminant),
        sign=sign,
        minus_b=render(-b),
        two_a=render(2 * a),
        factored=factored,
    )
