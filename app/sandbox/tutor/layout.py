"""How formulas and steps stand in a text of Markdown with LaTeX."""

from collections.abc import Sequence
from fractions import Fraction

from app.algebra import Rendered
from app.sandbox.tutor.phrases import Phrases


def inline(latex: str) -> str:
    r"""Set a formula into `\( … \)`."""
    return f"\\( {latex} \\)"


def display(latex: str) -> str:
    """Set a formula on a line of its own."""
    return f"\\[ {latex} \\]"


def equals(left: Rendered, right: Rendered) -> Rendered:
    """Write `left = right`, or one side only when both read the same."""
    if left.plain == right.plain:
        return Rendered(right.latex, right.plain)
    return Rendered(f"{left.latex} = {right.latex}", f"{left.plain} = {right.plain}")


def approximation(value: Rendered, say: Phrases) -> str:
    """Write a decimal in brackets behind an exact value, where that adds something."""
    if value.approx is None or value.is_exact_decimal:
        return ""
    decimal = f"{value.approx:.6g}"
    if "e" not in decimal and _is_same(value.plain, decimal):
        return f" (= {decimal})"
    return f" ({say.about.format(value=decimal)})"


def _is_same(plain: str, decimal: str) -> bool:
    try:
        return Fraction(plain) == Fraction(decimal)
    except (ValueError, ZeroDivisionError):
        return False


def listed(lines: Sequence[str]) -> str:
    """Write lines as a list."""
    return "\n".join(f"- {line}" for line in lines)


def numbered(steps: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Write steps with titles and indented lines below."""
    return "\n\n".join(
        _step(number, title, [part for line in lines for part in line.splitlines()])
        for number, (title, lines) in enumerate(steps, start=1)
    )


def _step(number: int, title: str, lines: Sequence[str]) -> str:
    if not lines:
        return f"{number}. {title}"
    return "\n".join([f"{number}. **{title.rstrip('.:')}**:", *(f"   {line}" for line in lines)])
