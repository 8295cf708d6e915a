"""What bounds the work: sizes of numbers, exponents, degrees and expansions.

Every bound is tested before SymPy is asked to compute, because its constructors compute
eagerly. Within these bounds arithmetic and equations take milliseconds; integration
searches and promises nothing. The one bound on wall time that holds for everything is
`app.algebra.workshop`, which kills what exceeds it.
"""

from collections.abc import Iterator
from typing import Any, Final

from app.algebra.engine import sympy
from app.algebra.errors import TooComplexError, UndefinedError

MAX_NODES: Final = 400
"""Nodes of an expression."""
MAX_BITS: Final = 2_000
"""Bits of a number, about 600 digits."""
MAX_EXPONENT: Final = 60
"""Absolute value of an exponent over anything but a number."""
_MAX_HIDDEN: Final = 10_000
"""Numbers within an exponent that is no number itself, as in e^(1000 x)."""
MAX_TERMS: Final = 600
"""Terms that an expression may have once expanded."""
MAX_DEGREE: Final = 60
"""Degree that a polynomial may have once expanded."""


def power(base: Any, exponent: Any) -> Any:
    """Raise within bounds.

    Raises:
        TooComplexError: The exponent, or the number that would come out, is too large.
        UndefinedError: Zero to the power of zero or less.
    """
    if base == 0 and exponent.is_number and not exponent.is_positive:
        raise UndefinedError("0^0" if exponent == 0 else "division by zero")
    if not exponent.is_Rational:
        return _irrational_power(base, require_bounded(exponent))
    if exponent.q > MAX_EXPONENT:
        raise TooComplexError(f"a root of degree above {MAX_EXPONENT}")
    size = abs(int(exponent.p)) // int(exponent.q)
    bits = _bits(base)
    if bits is None:
        if size > MAX_EXPONENT:
            raise TooComplexError(f"an exponent above {MAX_EXPONENT}")
    elif (bits - 1) * size > MAX_BITS:
        # what passes has at most about twice these bits, for `require_bounded` to judge
        raise TooComplexError("a power is too large")
    return sympy.Pow(base, exponent)


def _irrational_power(base: Any, exponent: Any) -> Any:
    # SymPy rewrites e^(n ln a) to a^n, and a^(n + x) to a^n a^x when it multiplies out, so
    # n is an exponent, however well it hides
    limit = MAX_EXPONENT if exponent.has(sympy.log) else _MAX_HIDDEN
    if any(abs(number) > limit for number in _numbers_outside_logarithms(exponent)):
        raise TooComplexError(f"an exponent above {limit}")
    return sympy.Pow(base, exponent)


def _numbers_outside_logarithms(expression: Any) -> Iterator[Any]:
    if expression.is_Rational:
        yield expression
    elif not isinstance(expression, sympy.log):
        for part in expression.args:
            yield from _numbers_outside_logarithms(part)


def require_bounded(expression: Any) -> Any:
    """Return the expression if it is defined and within bounds.

    Raises:
        TooComplexError: Too many nodes, or a number with too many digits.
        UndefinedError: It contains an infinity or is not a number.
    """
    for nodes, node in enumerate(sympy.preorder_traversal(expression), start=1):
        if nodes > MAX_NODES:
            raise TooComplexError(f"more than {MAX_NODES} nodes")
        if node.is_Rational and (_bits(node) or 0) > MAX_BITS:
            raise TooComplexError("a number is too large")
    if expression.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        raise UndefinedError("the value is not defined")
    return expression


def require_expandable(expression: Any) -> Any:
    """Return the expression if multiplying it out stays small.

    Raises:
        TooComplexError: It would have too many terms or too high a degree.
    """
    terms, degree = extent(expression)
    if terms > MAX_TERMS or degree > MAX_DEGREE:
        raise TooComplexError("the expression is too large once multiplied out")
    return expression


def _bits(number: Any) -> int | None:
    """Count the bits of a rational's larger part; None for anything else."""
    if not number.is_Rational or not number.is_finite:
        return None
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def extent(expression: Any) -> tuple[int, int]:
    """Bound the number of terms and the degree after expansion, from above.

    Returns:
        Terms, cut off above `MAX_TERMS`, and degree.
    """
    if expression.is_Atom:
        return 1, int(expression.is_Symbol)
    if expression.is_Add:
        parts = [extent(part) for part in expression.args]
        return sum(part[0] for part in parts), max(part[1] for part in parts)
    if expression.is_Mul:
        terms, degree = 1, 0
        for part in expression.args:
            part_terms, part_degree = extent(part)
            terms = min(terms * part_terms, MAX_TERMS + 1)
            degree += part_degree
        return terms, degree
    if expression.is_Pow and expression.exp.is_Integer:
        exponent = abs(int(expression.exp))
        terms, degree = extent(expression.base)
        if terms > 1:
            # of k terms to the n: C(n+k-1, k-1), and at most what fits
            count = int(sympy.binomial(exponent + min(terms, 8) - 1, min(terms, 8) - 1))
            terms = min(count, MAX_TERMS + 1)
        return terms, degree * exponent
    return 1, max((extent(part)[1] for part in expression.args), default=0)
