"""From a result to a tutor's words: the answer in brief, or the way to it step by step."""

from typing import assert_never

from app.algebra import (
    Derivative,
    EquationCheck,
    EquationSolution,
    Evaluation,
    Integral,
    Rendered,
    Result,
    SystemSolution,
)
from app.sandbox.tutor.equation import explain_equation
from app.sandbox.tutor.layout import approximation, equals, inline, listed, numbered
from app.sandbox.tutor.phrases import Phrases


def explain(result: Result, say: Phrases, *, in_detail: bool) -> str:
    """Write an answer.

    Args:
        result: What was computed.
        say: The language's phrases.
        in_detail: Step by step, instead of briefly.
    """
    match result:
        case EquationSolution():
            return explain_equation(result, say, in_detail=in_detail)
        case Evaluation():
            return _evaluation(result, say, in_detail=in_detail)
        case SystemSolution():
            return _system(result, say, in_detail=in_detail)
        case Derivative():
            return _derivative(result, say, in_detail=in_detail)
        case Integral():
            return _integral(result, say, in_detail=in_detail)
        case EquationCheck():
            return _check(result, say)
        case _:
            assert_never(result)


def _evaluation(result: Evaluation, say: Phrases, *, in_detail: bool) -> str:
    lead = say.value if result.is_number else say.simplified
    lines = [inline(equals(result.source, result.value).latex)]
    lines.append(f"{equals(result.source, result.value).plain}{approximation(result.value, say)}")
    if not result.is_real:
        lines.append(say.not_real)
    if in_detail:
        return numbered(
            [
                (say.order_of_operations, [inline(result.source.latex)]),
                (lead, lines),
            ]
        )
    return "\n\n".join([lead, *lines])


def _system(result: SystemSolution, say: Phrases, *, in_detail: bool) -> str:
    values = [
        Rendered(f"{name} = {value.latex}", f"{name} = {value.plain}")
        for name, value in result.values
    ]
    answer = [say.system[result.kind]]
    if values:
        answer.append(inline(", \\; ".join(value.latex for value in values)))
        answer.append(", ".join(value.plain for value in values))
    if not in_detail:
        return "\n\n".join(answer)
    given = [inline(equals(left, right).latex) for left, right in result.equations]
    steps = [(say.given, given), (say.elimination, list[str]())]
    if result.kind == "unique":
        steps.append((say.substitution, [inline(value.latex) for value in values]))
    return numbered([*steps, (say.result, answer)]) + f"\n\n{say.closing}"


def _derivative(result: Derivative, say: Phrases, *, in_detail: bool) -> str:
    lead = say.derivative if result.order == 1 else say.second_derivative
    lead = lead.format(source=result.source.latex, variable=result.variable, order=result.order)
    by = f"d{result.variable}"
    sign = f"\\frac{{d}}{{{by}}}"
    if result.order > 1:
        sign = f"\\frac{{d^{{{result.order}}}}}{{{by}^{{{result.order}}}}}"
    answer = [
        inline(f"{sign} \\left({result.source.latex}\\right) = {result.value.latex}"),
        f"= {result.value.plain}",
    ]
    if not in_detail:
        return "\n\n".join([lead, *answer])
    terms = [
        inline(f"\\frac{{d}}{{{by}}} \\left({term.latex}\\right) = {value.latex}")
        for term, value in result.terms
    ]
    steps = [(say.by_terms, terms)]
    if result.order > 1:
        steps.append((say.higher_order.format(order=result.order), []))
    return numbered([*steps, (lead, answer)]) + f"\n\n{say.closing}"


def _integral(result: Integral, say: Phrases, *, in_detail: bool) -> str:
    over = f"\\, d{result.variable}"
    if result.bounds is not None and result.value is not None:
        low, high = result.bounds
        lead = say.definite
        answer = [
            inline(
                f"\\int_{{{low.latex}}}^{{{high.latex}}} \\left({result.source.latex}\\right) "
                f"{over} = {result.value.latex}"
            ),
            f"= {result.value.plain}{approximation(result.value, say)}",
        ]
    else:
        lead = say.integral.format(source=result.source.latex, variable=result.variable)
        primitive = result.antiderivative
        answer = [
            inline(f"\\int \\left({result.source.latex}\\right) {over} = {primitive.latex} + C"),
            f"= {primitive.plain} + C",
        ]
    if not in_detail:
        return "\n\n".join([lead, *answer])
    terms = [
        inline(f"\\int \\left({term.latex}\\right) {over} = {value.latex}")
        for term, value in result.terms
    ]
    steps = [(say.by_terms, terms)]
    if result.at_bounds is None:
        steps.append((say.constant, []))
    else:
        at_low, at_high = (f"\\left({value.latex}\\right)" for value in result.at_bounds)
        steps.append((say.put_bounds, [inline(f"{at_high} - {at_low}")]))
    return numbered([*steps, (lead, answer)]) + f"\n\n{say.closing}"


def _check(result: EquationCheck, say: Phrases) -> str:
    left, right = result.source
    sides = [
        f"{equals(left, result.left).plain}{approximation(result.left, say)}",
        f"{equals(right, result.right).plain}{approximation(result.right, say)}",
    ]
    verdict = say.holds if result.holds else say.fails
    return f"{verdict}\n\n{inline(equals(left, right).latex)}\n\n{say.both_sides}\n{listed(sides)}"
