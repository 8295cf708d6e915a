"""Solutions solve: linear, quadratic, higher, systems, and the honest cases between."""

import cmath
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.algebra import (
    TooComplexError,
    UnsupportedError,
    check_equation,
    evaluate,
    solve_equation,
    solve_system,
)

COEFFICIENTS = st.integers(-50, 50)


def in_words(a: int, b: int, c: int) -> str:
    return f"({a})x^2 + ({b})x + ({c}) = 0"


def number(plain: str) -> complex:
    """Read a root's text as Python would, to check it without our own code."""
    text = plain.replace("√", "sqrt").replace("i", "*1j")
    for digit in "0123456789":
        text = text.replace(f"{digit}sqrt", f"{digit}*sqrt")
    while "sqrt" in text:
        before, _, rest = text.rpartition("sqrt")
        size = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{before}{abs(cmath.sqrt(int(rest[:size]))):.17g}{rest[size:]}"
    text = text.replace("(*1j", "(1j").replace(" *1j", " 1j").replace("-*1j", "-1j")
    text = "1j" if text == "*1j" else text
    return complex(eval(text.replace("/*1j", "/1j"), {}))  # noqa: S307 (our own roots)


@settings(deadline=None)
@given(COEFFICIENTS, COEFFICIENTS, COEFFICIENTS)
def test_roots_of_a_quadratic_satisfy_it(a: int, b: int, c: int) -> None:
    assume(a != 0)
    result = solve_equation(in_words(a, b, c))
    assert result.kind == "quadratic"
    discriminant = b * b - 4 * a * c
    assert result.quadratic is not None
    assert result.quadratic.discriminant.plain == str(discriminant)
    assert result.quadratic.sign == (discriminant > 0) - (discriminant < 0)
    assert sum(root.multiplicity for root in result.roots) == 2
    for root in result.roots:
        x = number(root.value.plain)
        assert abs(a * x * x + b * x + c) < 1e-6 * (abs(a) + abs(b) + abs(c)) * (1 + abs(x) ** 2)
        assert root.is_exact
        assert root.is_real == (discriminant >= 0)
        assert root.is_real == (abs(x.imag) < 1e-12)


@settings(deadline=None)
@given(COEFFICIENTS, COEFFICIENTS, COEFFICIENTS)
def test_roots_of_a_quadratic_satisfy_it_exactly(a: int, b: int, c: int) -> None:
    assume(a != 0)
    assume(b * b >= 4 * a * c)
    for root in solve_equation(in_words(a, b, c)).roots:
        assert check_equation(in_words(a, b, c), {"x": root.value.plain}).holds
        assert check_equation(in_words(a, b, c), {"x": root.value.latex}).holds
        assert not check_equation(in_words(a, b, c + 1), {"x": root.value.plain}).holds


def test_the_equation_of_the_tutorial() -> None:
    result = solve_equation("3x**2 + 11x - 10 = 0")
    assert [root.value.latex for root in result.roots] == [
        "\\frac{-11 + \\sqrt{241}}{6}",
        "\\frac{-11 - \\sqrt{241}}{6}",
    ]
    assert [root.value.plain for root in result.roots] == ["(-11 + √241)/6", "(-11 - √241)/6"]
    steps = result.quadratic
    assert steps is not None
    assert (steps.b_squared.plain, steps.four_ac.plain) == ("121", "-120")
    assert (steps.discriminant.plain, steps.two_a.plain) == ("241", "6")


@settings(deadline=None)
@given(COEFFICIENTS, COEFFICIENTS, COEFFICIENTS)
def test_a_linear_equation_has_the_solution_of_fractions(a: int, b: int, c: int) -> None:
    result = solve_equation(f"({a})x + ({b}) = ({c})", "x" if a else None)
    if a:
        assert [Fraction(root.value.plain) for root in result.roots] == [Fraction(c - b, a)]
    else:
        assert result.kind == ("identity" if b == c else "contradiction")
        assert not result.roots


def roots(text: str) -> list[tuple[str, int]]:
    return [(root.value.plain, root.multiplicity) for root in solve_equation(text).roots]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x^2 + 2x + 5 = 0", [("-1 + 2i", 1), ("-1 - 2i", 1)]),
        ("x^2 - 4x + 4 = 0", [("2", 2)]),
        ("x^3 - 6x^2 + 11x - 6 = 0", [("1", 1), ("2", 1), ("3", 1)]),
        ("(x-1)^3 = 0", [("1", 3)]),
        ("x^4 - 5x^2 + 4 = 0", [("-2", 1), ("-1", 1), ("1", 1), ("2", 1)]),
        ("ax + b = 0", [("-b/a", 1)]),
        ("(x^2-1)/(x-1) = 0", [("-1", 1)]),
        ("(x-1)/(x-1) = 0", []),
        ("0.5x = 1/4", [("1/2", 1)]),
    ],
)
def test_solutions(text: str, expected: list[tuple[str, int]]) -> None:
    assert roots(text) == expected


def test_a_value_that_the_denominator_forbids_is_named() -> None:
    result = solve_equation("(x^2-1)/(x-1) = 0")
    assert [value.plain for value in result.excluded] == ["1"]


def test_a_cube_root_is_exact_and_its_complex_companions_say_that_they_are_not() -> None:
    found = solve_equation("x^3 = 2").roots
    assert [(root.is_real, root.is_exact) for root in found] == [
        (True, True),
        (False, False),
        (False, False),
    ]
    assert found[0].value.plain == "2^(1/3)"


def test_decimals_of_a_quintic_are_said_to_be_decimals() -> None:
    found = solve_equation("x^5 - x - 1 = 0").roots
    assert [root.is_exact for root in found] == [False] * 5
    assert found[0].value.approx == pytest.approx(1.1673039782614187)


@pytest.mark.parametrize("text", ["sin(x) = 1", "2^x = 8", "√(x) = 3", "x^3 + a = 0"])
def test_other_equations_are_declined(text: str) -> None:
    with pytest.raises(UnsupportedError):
        solve_equation(text)


def test_a_high_degree_is_declined() -> None:
    with pytest.raises(TooComplexError):
        solve_equation("x^13 = 1")


NUMBERS = st.integers(-9, 9)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=6, max_size=6))
def test_a_system_is_solved_by_its_solution(numbers: list[int]) -> None:
    a, b, c, d, x, y = numbers
    assume(a * d != b * c)
    assume(a or c)
    assume(b or d)
    texts = [
        f"({a})x + ({b})y = {a * x + b * y}",
        f"({c})x + ({d})y = {c * x + d * y}",
    ]
    result = solve_system(texts)
    assert result.kind == "unique"
    assert [(name, value.plain) for name, value in result.values] == [("x", str(x)), ("y", str(y))]


@pytest.mark.parametrize(
    ("second", "kind"), [("2x + 2y = 20", "infinite"), ("2x + 2y = 2", "none")]
)
def test_systems_without_one_solution(second: str, kind: str) -> None:
    assert solve_system(["x + y = 10", second]).kind == kind


@pytest.mark.parametrize("texts", [["x*y = 1", "x = 1"], ["√2 x = 1"], ["1 = 1"]])
def test_other_systems_are_declined(texts: list[str]) -> None:
    with pytest.raises(UnsupportedError):
        solve_system(texts)


def test_equations_are_checked() -> None:
    assert check_equation("(x+1)^2 = x^2 + 2x + 1").holds
    assert not check_equation("(x+1)^2 = x^2 + 1").holds
    assert check_equation("√2 × √8 = 4").holds  # noqa: RUF001
    assert check_equation("sin(1)^2 + cos(1)^2 = 1").holds
    assert check_equation("√(3 + 2√2) = 1 + √2").holds
    assert not check_equation("√(10^40 + 1) - 10^20 = 0").holds
    assert not check_equation("3x = 7", {"x": "2"}).holds
    assert evaluate("3*2").value.plain == check_equation("3x = 7", {"x": "2"}).left.plain
