"""Exact values as a student reads them: LaTeX, plain text, and a decimal."""

import cmath
from dataclasses import dataclass
from typing import Any, Final

from app.algebra.engine import sympy
from app.algebra.rough import rough

_MAX_FLOAT: Final = 1e15
"""Beyond it a decimal tells a student nothing."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One exact value or expression, written out.

    Attributes:
        latex: For a typesetter, without delimiters.
        plain: For a line of text: `x^2`, `√241`, `(-11 + √241)/6`.
        approx: A decimal, where the value is a real number of moderate size.
    """

    latex: str
    plain: str
    approx: float | None = None

    @property
    def is_exact_decimal(self) -> bool:
        """Whether the plain text is a whole number, so that a decimal adds nothing."""
        return self.plain.lstrip("-").isdigit()


def render(expression: Any) -> Rendered:
    """Write an expression out."""
    return Rendered(to_latex(expression), to_plain(expression), approximate(expression))


def render_surd(value: Any) -> Rendered:
    """Write p/q + r/s √n over one denominator with the rational part first.

    Args:
        value: A sum of a rational number and a rational multiple of one square root, or
            that multiple alone.
    """
    rational = sympy.Add(*(part for part in sympy.Add.make_args(value) if part.is_Rational))
    multiple, surd = (value - rational).as_coeff_Mul()
    imaginary = surd.has(sympy.I)
    radicand = sympy.expand(surd**2) * (-1 if imaginary else 1)
    below = int(sympy.ilcm(rational.q, multiple.q))
    above, times = int(rational * below), int(multiple * below)
    sign = "-" if times < 0 else "+"
    number = "" if abs(times) == 1 else str(abs(times))
    tail_latex = f"{number}{f' {chr(92)}sqrt{{{radicand}}}' if radicand != 1 else ''}"
    tail_plain = f"{number}{f'√{radicand}' if radicand != 1 else ''}"
    tail_latex = (tail_latex + (" i" if imaginary else "")).strip()
    tail_plain += "i" if imaginary else ""
    if above:
        latex, plain = f"{above} {sign} {tail_latex}", f"{above} {sign} {tail_plain}"
    else:
        lead = "-" if times < 0 else ""
        latex, plain = f"{lead}{tail_latex}", f"{lead}{tail_plain}"
    if below != 1:
        latex = f"\\frac{{{latex}}}{{{below}}}"
        plain = f"({plain})/{below}" if above else f"{plain}/{below}"
    return Rendered(latex, plain, approximate(value))


def to_latex(expression: Any) -> str:
    """Write as LaTeX, with `ln` for the natural logarithm."""
    return str(sympy.latex(_join(expression), ln_notation=True))


def to_plain(expression: Any) -> str:
    """Write as one line of text."""
    return _plain(_join(expression))


def approximate(expression: Any) -> float | None:
    """Compute a decimal of a constant; None if there is none worth showing.

    A first pass in floating point finds out whether exact evaluation is harmless.
    """
    if expression.free_symbols:
        return None
    try:
        guess = rough(expression)
    except (ArithmeticError, ValueError, NotImplementedError):
        return None
    if not cmath.isfinite(guess) or abs(guess) > _MAX_FLOAT:
        return None
    value = expression.evalf(15)
    return float(value) if value.is_Float or value.is_Integer or value.is_Rational else None


def _join(expression: Any) -> Any:
    """Put sums of constants over one denominator: (-11 + √241)/6, not -11/6 + √241/6."""
    if expression.is_number and expression.is_Add:
        return sympy.together(expression)
    return expression


def _plain(expression: Any) -> str:  # noqa: PLR0911 (one line per kind of expression)
    if expression.is_Rational:
        return str(expression)
    if expression.is_Add:
        return _plain_sum(expression)
    if expression.is_Mul:
        return _plain_product(expression)
    if expression.is_Pow:
        return _plain_power(expression)
    if expression is sympy.pi:
        return "π"
    if expression is sympy.E:
        return "e"
    if expression is sympy.I:
        return "i"
    if expression.is_Function:
        name = type(expression).__name__
        if name == "exp":
            return f"e^{_wrapped(expression.args[0])}"
        name = {"log": "ln", "Abs": "abs"}.get(name, name)
        return f"{name}({', '.join(_plain(part) for part in expression.args)})"
    return str(expression)


def _plain_sum(expression: Any) -> str:
    text = ""
    for term in expression.as_ordered_terms():
        piece = _plain(term)
        if not text:
            text = piece
        elif piece.startswith("-"):
            text += f" - {piece[1:]}"
        else:
            text += f" + {piece}"
    return text


def _plain_product(expression: Any) -> str:
    above, below = sympy.fraction(expression)
    if below != 1:
        sign = ""
        if above.could_extract_minus_sign() and not above.is_Add:
            sign, above = "-", -above
        return f"{sign}{_wrapped(above, product=True)}/{_wrapped(below)}"
    text = ""
    for position, factor in enumerate(expression.as_ordered_factors()):
        if position == 0 and factor == -1:
            text = "-"
            continue
        piece = _wrapped(factor, product=True)
        joins = text in {"", "-"} or piece[0].isalpha() or piece[0] in "√(π"
        # two letters side by side are a product; a digit after anything needs a dot
        text += piece if joins and not (text[-1:].isalpha() and piece[0] == "(") else f"*{piece}"
    return text


def _plain_power(expression: Any) -> str:
    base, exponent = expression.base, expression.exp
    if exponent == sympy.Rational(1, 2):
        return f"√{_wrapped(base)}"
    if exponent.is_number and exponent.could_extract_minus_sign():
        return f"1/{_wrapped(sympy.Pow(base, -exponent))}"
    return f"{_wrapped(base)}^{_wrapped(exponent)}"


def _wrapped(expression: Any, *, product: bool = False) -> str:
    text = _plain(expression)
    simple = expression.is_Atom or expression.is_Function
    if expression.is_Rational:
        simple = expression.is_Integer and expression >= 0
    if product and (expression.is_Pow or expression.is_Mul or expression.is_Integer):
        simple = True
    return text if simple else f"({text})"
