"""Roots of polynomials: exact where the factors are small, and said to be decimals elsewhere.

The formulas of Cardano and Ferrari are exact as well, but no student can read them.
"""

from typing import Any, Final

from app.algebra.engine import sympy
from app.algebra.errors import UnsupportedError
from app.algebra.render import Rendered, render, render_surd
from app.algebra.results import Root

QUADRATIC: Final = 2
"""Degree up to which there is a formula."""


def find_roots(polynomial: Any) -> list[tuple[Any, Root]]:
    """Find all roots of a polynomial with their exact (or numeric) values.

    Args:
        polynomial: A SymPy `Poly` in one unknown.

    Returns:
        Values as SymPy has them, and as a reader sees them.

    Raises:
        UnsupportedError: It is of the third degree or above, with letters in it.
    """
    if polynomial.degree() <= QUADRATIC:
        return _small_roots(polynomial)
    if not all(coefficient.is_Rational for coefficient in polynomial.all_coeffs()):
        raise UnsupportedError("only numbers as coefficients above the second degree")
    found: list[tuple[Any, Root]] = []
    for factor, times in polynomial.factor_list()[1]:
        pairs = _small_roots(factor) if factor.degree() <= QUADRATIC else _large_roots(factor)
        found += [
            (value, Root(root.value, root.multiplicity * times, root.is_real, root.is_exact))
            for value, root in pairs
        ]
    return found


def _small_roots(polynomial: Any) -> list[tuple[Any, Root]]:
    coefficients = polynomial.all_coeffs()
    if polynomial.degree() == 1:
        a, b = coefficients
        value = sympy.cancel(-b / a)
        return [(value, _exact(value))]
    a, b, c = coefficients
    discriminant = sympy.expand(b**2 - 4 * a * c)
    if discriminant == 0:
        value = sympy.cancel(-b / (2 * a))
        return [(value, Root(render(value), 2, bool(value.is_real is not False)))]
    if all(value.is_Rational for value in coefficients):
        return [(value, _exact(value, text)) for value, text in _surds(a, b, discriminant)]
    root = sympy.sqrt(discriminant)
    values = [_tidy((-b + root) / (2 * a)), _tidy((-b - root) / (2 * a))]
    return [(value, _exact(value)) for value in values]


def _large_roots(factor: Any) -> list[tuple[Any, Root]]:
    """Find roots of an irreducible factor: radicals where it is a x^n = b, else decimals."""
    exact: list[Any] = []
    degree, terms = factor.degree(), factor.all_coeffs()
    if not any(terms[1:-1]):
        power = -terms[-1] / terms[0]
        size = sympy.root(abs(power), degree)
        if degree % 2:
            exact = [size if power > 0 else -size]
        elif power > 0:
            exact = [size, -size]
    numbers = factor.nroots(n=15, maxsteps=100)
    others = [value for value in numbers if not (exact and value.is_real)]
    return [(value, _exact(value)) for value in exact] + [
        (value, _numeric(value)) for value in others
    ]


def _tidy(value: Any) -> Any:
    return sympy.expand(value) if value.is_number else value


def _surds(a: Any, b: Any, discriminant: Any) -> list[tuple[Any, Rendered]]:
    """Write both roots over one denominator, in the order of the formula."""
    root = sympy.sqrt(discriminant)
    found: list[tuple[Any, Rendered]] = []
    for sign in (1, -1):
        value = sympy.expand((-b + sign * root) / (2 * a))
        found.append((value, render(value) if value.is_Rational else render_surd(value)))
    return found


def _exact(value: Any, text: Rendered | None = None) -> Root:
    return Root(text or render(value), is_real=value.is_real is not False)


def _numeric(value: Any) -> Root:
    if value.is_real:
        number = float(value)
        text = f"{number:.6g}"
        return Root(Rendered(text, text, number), is_exact=False)
    real, imaginary = float(sympy.re(value)), float(sympy.im(value))
    text = f"{real:.6g} {'-' if imaginary < 0 else '+'} {abs(imaginary):.6g}i"
    return Root(Rendered(text, text), is_real=False, is_exact=False)
