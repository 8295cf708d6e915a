"""Equations in words: the formula in one line, or step by step with the discriminant."""

from app.algebra import EquationSolution, Quadratic, Rendered, Root
from app.sandbox.tutor.layout import approximation, display, equals, inline, numbered
from app.sandbox.tutor.phrases import Phrases

_FORMULA = "x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}"
_Step = tuple[str, list[str]]


def explain_equation(result: EquationSolution, say: Phrases, *, in_detail: bool) -> str:
    """Write the solutions of an equation.

    Args:
        result: What was solved.
        say: The language's phrases.
        in_detail: Step by step, instead of briefly.
    """
    if not in_detail:
        return "\n\n".join(_brief(result, say))
    steps: list[_Step] = [(say.given, [display(_as_written(result))])]
    if result.right.plain != "0" or result.left.plain != result.standard.plain:
        steps.append((say.standard, [display(f"{result.standard.latex} = 0")]))
    if result.quadratic is not None:
        steps += _quadratic_steps(result, result.quadratic, say)
    elif result.kind == "linear":
        steps.append(_linear_step(result, say))
    steps.append((say.result, _conclusion(result, say)))
    return f"{say.of_course}\n\n{numbered(steps)}\n\n{say.closing}"


def _as_written(result: EquationSolution) -> str:
    return f"{result.left.latex} = {result.right.latex}"


def _brief(result: EquationSolution, say: Phrases) -> list[str]:
    if not result.roots:
        return _conclusion(result, say)
    lead = say.roots["one" if len(result.roots) == 1 else "many"]
    parts = [lead.format(equation=_as_written(result))]
    if result.quadratic is not None and not _has_letters(result.quadratic):
        parts.append(inline(_in_one_line(result.variable, result.quadratic)))
    return [*parts, *_conclusion(result, say)]


def _has_letters(steps: Quadratic) -> bool:
    return any(value.approx is None for value in (steps.a, steps.b, steps.c))


def _in_one_line(variable: str, steps: Quadratic) -> str:
    below = f"{{2 \\cdot {_bracketed(steps.a)}}}"
    root = f"{_bracketed(steps.b)}^2 - 4 \\cdot {_bracketed(steps.a)} \\cdot {_bracketed(steps.c)}"
    minus_b = f"{steps.minus_b.latex} " if steps.minus_b.plain != "0" else ""
    first = f"\\frac{{{minus_b}\\pm \\sqrt{{{root}}}}}{below}"
    second = f"\\frac{{{minus_b}\\pm \\sqrt{{{steps.discriminant.latex}}}}}{{{steps.two_a.latex}}}"
    return f"{variable} = {first} = {second}"


def _bracketed(value: Rendered) -> str:
    is_plain = value.plain.isalnum() or value.plain == "π"
    return value.latex if is_plain else f"\\left({value.latex}\\right)"


def _conclusion(result: EquationSolution, say: Phrases) -> list[str]:
    """Say what the solutions are: as LaTeX, as plain text, and which of them are complex."""
    lines: list[str] = []
    if result.kind in {"identity", "contradiction"}:
        lines.append(say.roots[result.kind].format(variable=result.variable))
    elif not result.roots:
        lines.append(say.roots["none"])
    for root in result.roots:
        sign = "=" if root.is_exact else "\\approx"
        lines.append(inline(f"{result.variable} {sign} {root.value.latex}"))
    if result.roots:
        lines.append("\n".join(_plain(result.variable, root, say) for root in result.roots))
    if any(not root.is_real for root in result.roots):
        lines.append(say.complex_roots)
    if any(not root.is_exact for root in result.roots):
        lines.append(say.approximate_roots)
    if result.excluded:
        values = ", ".join(f"{result.variable} = {value.plain}" for value in result.excluded)
        lines.append(say.excluded.format(values=values))
    return lines


def _plain(variable: str, root: Root, say: Phrases) -> str:
    times = f" {say.times.format(count=root.multiplicity)}" if root.multiplicity > 1 else ""
    if not root.is_exact:
        return f"{variable} ≈ {root.value.plain}{times}"
    return f"{variable} = {root.value.plain}{approximation(root.value, say)}{times}"


def _linear_step(result: EquationSolution, say: Phrases) -> _Step:
    a, b = result.coefficients
    lines = [display(f"{_bracketed(a)} \\cdot {result.variable} = {_negated(b)}")]
    lines += [display(f"{result.variable} = {root.value.latex}") for root in result.roots]
    return say.divide.format(variable=result.variable), lines


def _negated(value: Rendered) -> str:
    if value.plain == "0":
        return "0"
    if value.plain.startswith("-") and " " not in value.plain:
        return value.latex.removeprefix("-").strip()
    return f"-{value.latex}" if " " not in value.plain else f"-\\left({value.latex}\\right)"


def _quadratic_steps(result: EquationSolution, steps: Quadratic, say: Phrases) -> list[_Step]:
    named = (("a", steps.a), ("b", steps.b), ("c", steps.c))
    values = ", \\; ".join(f"{name} = {value.latex}" for name, value in named)
    discriminant = [
        display(
            f"b^2 - 4ac = {_bracketed(steps.b)}^2 - 4 \\cdot {_bracketed(steps.a)} "
            f"\\cdot {_bracketed(steps.c)}"
        ),
    ]
    if _has_letters(steps):
        discriminant.append(display(f"= {steps.discriminant.latex}"))
    else:
        discriminant += _difference(steps)
    if steps.sign is None:
        discriminant.append(say.discriminant_unknown)
    else:
        discriminant.append(say.discriminant_sign[steps.sign])
    put_in = [display(_in_one_line(result.variable, steps))]
    found = [
        (say.formula, [display(_FORMULA.replace("x", result.variable, 1)), inline(values)]),
        (say.discriminant, discriminant),
        (say.put_in, put_in),
    ]
    if steps.factored is not None:
        found.append((say.factored, [display(f"{steps.factored.latex} = 0")]))
    return found


def _difference(steps: Quadratic) -> list[str]:
    """Write 121 - (-120) the way that a teacher would: 121 + 120."""
    is_negative = steps.four_ac.plain.startswith("-") and " " not in steps.four_ac.plain
    four_ac = Rendered(steps.four_ac.latex, steps.four_ac.plain)
    sign = "-"
    if is_negative:
        sign = "+"
        four_ac = Rendered(four_ac.latex.lstrip("- "), four_ac.plain.removeprefix("-"))
    elif " " in four_ac.plain:
        four_ac = Rendered(f"\\left({four_ac.latex}\\right)", f"({four_ac.plain})")
    left = Rendered(
        f"{steps.b_squared.latex} {sign} {four_ac.latex}",
        f"{steps.b_squared.plain} {sign} {four_ac.plain}",
    )
    line = equals(left, steps.discriminant)
    return [display(f"= {line.latex}"), f"b² - 4ac = {line.plain}"]
