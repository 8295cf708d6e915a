"""From trees to SymPy objects, by constructors only.

Constructors compute at once (`9^9` becomes a number), so every step is bounded before it
is taken. Numbers are exact: `0.1` is 1/10.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from app.algebra.engine import sympy
from app.algebra.errors import UndefinedError
from app.algebra.limits import power, require_bounded
from app.algebra.nodes import Binary, Call, Constant, Letter, Negative, Node, Number, Power, Root


def _common_logarithm(value: Any) -> Any:
    """`log` has base 10, as at school; `ln` is the natural one."""
    if value == 0:
        raise UndefinedError("the logarithm of zero")
    return sympy.log(value, 10)


def _natural_logarithm(value: Any) -> Any:
    if value == 0:
        raise UndefinedError("the logarithm of zero")
    return sympy.log(value)


def _exponential(value: Any) -> Any:
    return power(sympy.E, value)


def _square_root(value: Any) -> Any:
    return power(value, sympy.Rational(1, 2))


_FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "sqrt": _square_root,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "ln": _natural_logarithm,
    "log": _common_logarithm,
    "exp": _exponential,
    "abs": sympy.Abs,
}


def symbol(name: str) -> Any:
    """Make the symbol that stands for a variable; variables are real."""
    return sympy.Symbol(name, real=True)


def build(node: Node, values: Mapping[str, Any] | None = None) -> Any:
    """Make the SymPy expression of a tree.

    Args:
        node: What to build.
        values: SymPy values for some variables; put in here and not by `subs` later, so
            that the bounds see them.

    Returns:
        An expression that is within bounds and defined.

    Raises:
        TooComplexError: A bound was exceeded.
        UndefinedError: It divides by zero, or has no value.
    """
    return require_bounded(_build(node, values or {}))


def _build(node: Node, values: Mapping[str, Any]) -> Any:  # noqa: PLR0911 (one per kind)
    match node:
        case Number(text):
            exact = Fraction(text)
            return sympy.Rational(exact.numerator, exact.denominator)
        case Letter(name):
            return values[name] if name in values else symbol(name)
        case Constant(name):
            return sympy.pi if name == "pi" else sympy.E
        case Negative(of):
            return sympy.Mul(-1, _build(of, values))
        case Binary():
            return _operate(node, values)
        case Power(base, exponent):
            return power(_build(base, values), _build(exponent, values))
        case Call(name, argument):
            return _FUNCTIONS[name](require_bounded(_build(argument, values)))
        case Root(degree, radicand):
            return _root(_build(degree, values), _build(radicand, values))


def _operate(node: Binary, values: Mapping[str, Any]) -> Any:
    left, right = _build(node.left, values), _build(node.right, values)
    match node.operator:
        case "+":
            return sympy.Add(left, right)
        case "-":
            return sympy.Add(left, sympy.Mul(-1, right))
        case "*":
            return sympy.Mul(left, right)
        case "/":
            return sympy.Mul(left, power(right, sympy.Integer(-1)))


def _root(degree: Any, radicand: Any) -> Any:
    exponent = power(degree, sympy.Integer(-1))
    if radicand.is_Rational and radicand < 0 and degree.is_Integer and degree % 2:
        # the odd root of a negative number is real at school, not the principal value
        return sympy.Mul(-1, power(-radicand, exponent))
    return power(radicand, exponent)


def substitute(expression: Any, letter: Any, value: Any) -> Any:
    """Put a value in for a variable, within bounds.

    Raises:
        TooComplexError: A bound was exceeded.
        UndefinedError: The expression has no value there.
    """
    if expression == letter:
        return value
    if not expression.has(letter):
        return expression
    parts = [substitute(part, letter, value) for part in expression.args]
    if expression.is_Pow:
        return power(*parts)
    if isinstance(expression, sympy.exp):
        return _exponential(parts[0])
    return require_bounded(expression.func(*parts))
