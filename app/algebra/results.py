"""What the solvers return: frozen values, already written out for a reader."""

from dataclasses import dataclass
from typing import Literal

from app.algebra.render import Rendered

EquationKind = Literal["linear", "quadratic", "polynomial", "identity", "contradiction"]
SystemKind = Literal["unique", "infinite", "none"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The value of an expression, or its simplified form if it has variables."""

    source: Rendered
    value: Rendered
    is_number: bool
    is_real: bool = True


@dataclass(frozen=True, slots=True)
class Root:
    """One solution of an equation and how often it counts."""

    value: Rendered
    multiplicity: int = 1
    is_real: bool = True
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Quadratic:
    """The steps of the quadratic formula for a x^2 + b x + c = 0."""

    a: Rendered
    b: Rendered
    c: Rendered
    b_squared: Rendered
    four_ac: Rendered
    discriminant: Rendered
    sign: Literal[-1, 0, 1] | None
    """Sign of the discriminant; None when it depends on other letters."""
    minus_b: Rendered
    two_a: Rendered
    factored: Rendered | None
    """The factored left side, where its roots are rational."""


@dataclass(frozen=True, slots=True)
class EquationSolution:
    """An equation, its standard form, and everything that solves it.

    Attributes:
        left: Left side as written.
        right: Right side as written.
        variable: The unknown.
        kind: What sort of equation it turned out to be.
        standard: The expression that is set to zero.
        coefficients: From the highest power down to the constant.
        roots: All solutions, real ones first; empty for identity and contradiction.
        quadratic: The formula's parts, for quadratic equations.
        excluded: Values that the original equation forbids (zeros of denominators).
    """

    left: Rendered
    right: Rendered
    variable: str
    kind: EquationKind
    standard: Rendered
    coefficients: tuple[Rendered, ...]
    roots: tuple[Root, ...]
    quadratic: Quadratic | None = None
    excluded: tuple[Rendered, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemSolution:
    """Linear equations and the values that satisfy all of them.

    Attributes:
        equations: Left and right sides as written.
        variables: The unknowns, in the order of the alphabet.
        kind: How many solutions there are.
        values: One per variable when `unique`; when `infinite`, those that can be
            expressed by the others.
    """

    equations: tuple[tuple[Rendered, Rendered], ...]
    variables: tuple[str, ...]
    kind: SystemKind
    values: tuple[tuple[str, Rendered], ...]


@dataclass(frozen=True, slots=True)
class Derivative:
    """A function, its derivative, and the derivative of each term."""

    source: Rendered
    variable: str
    order: int
    value: Rendered
    terms: tuple[tuple[Rendered, Rendered], ...]


@dataclass(frozen=True, slots=True)
class Integral:
    """A function, an antiderivative and, between bounds, the value.

    Attributes:
        source: The integrand as written.
        variable: Integrated over.
        antiderivative: Without the constant.
        bounds: Lower and upper bound of a definite integral, as written.
        at_bounds: The antiderivative at the lower and the upper bound.
        value: The definite integral.
        terms: Each term of the integrand with its antiderivative.
    """

    source: Rendered
    variable: str
    antiderivative: Rendered
    bounds: tuple[Rendered, Rendered] | None
    at_bounds: tuple[Rendered, Rendered] | None
    value: Rendered | None
    terms: tuple[tuple[Rendered, Rendered], ...]


@dataclass(frozen=True, slots=True)
class EquationCheck:
    """Both sides of an equation as written, their values, and whether these agree."""

    source: tuple[Rendered, Rendered]
    left: Rendered
    right: Rendered
    holds: bool


Result = Evaluation | EquationSolution | SystemSolution | Derivative | Integral | EquationCheck
