"""What a text says, as a tree: grammar only, nothing is computed here.

Trees are cheap, so prose can be searched for mathematics without waking SymPy; and they
remember how a student wrote something, which SymPy's constructors forget at once.
"""

from dataclasses import dataclass
from typing import Literal

ConstantName = Literal["pi", "e"]
Operator = Literal["+", "-", "*", "/"]


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal as written; exact."""

    text: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """The circle's number or Euler's."""

    name: ConstantName


@dataclass(frozen=True, slots=True)
class Negative:
    """A sign in front."""

    of: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands; products may have been written without a sign."""

    operator: Operator
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Power:
    """A base and an exponent."""

    base: "Node"
    exponent: "Node"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the whitelist, and what it applies to."""

    name: str
    argument: "Node"


@dataclass(frozen=True, slots=True)
class Root:
    r"""A root of a written degree, as of `\sqrt[3]{8}`."""

    degree: "Node"
    radicand: "Node"


Node = Number | Letter | Constant | Negative | Binary | Power | Call | Root


@dataclass(frozen=True, slots=True)
class Equation:
    """Two sides."""

    left: Node
    right: Node


def children(node: Node) -> tuple[Node, ...]:
    """Return the parts of a node, in the order of writing."""
    match node:
        case Number() | Letter() | Constant():
            return ()
        case Negative(of):
            return (of,)
        case Binary(_, left, right):
            return (left, right)
        case Power(base, exponent):
            return (base, exponent)
        case Call(_, argument):
            return (argument,)
        case Root(degree, radicand):
            return (degree, radicand)


def letters(statement: Node | Equation) -> frozenset[str]:
    """Return the names of all variables of an expression or equation."""
    pending: list[Node] = (
        [statement.left, statement.right] if isinstance(statement, Equation) else [statement]
    )
    found: set[str] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, Letter):
            found.add(node.name)
        pending += children(node)
    return frozenset(found)
