"""Recursive descent from tokens to a tree of nodes.

No text ever reaches `sympify`, `parse_expr` or `eval`, and nothing is computed:
`app.algebra.build` makes SymPy objects of the tree by their constructors, within bounds.
Products without a sign bind like products with one: `1/2x` is (1/2)x.
"""

from typing import Final, cast

from app.algebra.errors import SyntaxRefusedError, TooComplexError
from app.algebra.nodes import (
    Binary,
    Call,
    Constant,
    ConstantName,
    Equation,
    Letter,
    Negative,
    Node,
    Number,
    Operator,
    Power,
    Root,
)
from app.algebra.tokens import Token, tokenize

MAX_DEPTH: Final = 24
"""Nesting of parentheses, exponents, signs and functions."""


def parse_expression(text: str) -> Node:
    """Read one expression.

    Args:
        text: Such as `2(x+1)^2 / 3`, also with light LaTeX.

    Raises:
        AlgebraError: The text is refused, see its subclasses.
    """
    statement = parse(text)
    if isinstance(statement, Equation):
        raise SyntaxRefusedError("an equation where an expression was expected")
    return statement


def parse_equation(text: str) -> Equation:
    """Read `left = right`.

    Raises:
        AlgebraError: The text is refused, or does not hold exactly one `=`.
    """
    statement = parse(text)
    if not isinstance(statement, Equation):
        raise SyntaxRefusedError("an expression where an equation was expected")
    return statement


def parse(text: str) -> Node | Equation:
    """Read an expression or an equation, whichever the text is.

    Raises:
        AlgebraError: The text is refused, see its subclasses.
    """
    parser = _Parser(tokenize(text))
    left = parser.sum()
    if not parser.accept("="):
        parser.expect_end()
        return left
    right = parser.sum()
    parser.expect_end()
    return Equation(left, right)


class _Parser:
    """One pass over the tokens; each method reads one level of precedence."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _is(self, *operators: str) -> bool:
        return self._next.kind == "operator" and self._next.text in operators

    def _take(self) -> Token:
        token = self._next
        self._at += 1
        return token

    def accept(self, operator: str) -> bool:
        if self._is(operator):
            self._at += 1
            return True
        return False

    def expect(self, operator: str) -> None:
        if not self.accept(operator):
            raise SyntaxRefusedError(f"expected {operator!r} at {self._next.position}")

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise SyntaxRefusedError(f"unexpected {self._next.text!r} at {self._next.position}")

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooComplexError(f"nested deeper than {MAX_DEPTH}")

    def sum(self) -> Node:
        self._enter()
        # a sign in front belongs to the whole product, so that -2x is written back as -2x
        negative = self._is("-") and bool(self._take())
        value = self._product()
        if negative:
            value = Negative(value)
        while self._is("+", "-"):
            value = Binary(cast(Operator, self._take().text), value, self._product())
        self._depth -= 1
        return value

    def _product(self) -> Node:
        value = self._signed()
        while True:
            if self._is("*", "/"):
                value = Binary(cast(Operator, self._take().text), value, self._signed())
            elif self._starts_factor():
                value = Binary("*", value, self._power())
            else:
                return value

    def _starts_factor(self) -> bool:
        if self._next.kind == "number":
            # `2 3` is two numbers side by side: no product, but a mistake of the reader
            return self._tokens[self._at - 1].kind != "number"
        return self._next.kind in {"variable", "name"} or self._is("(", "{")

    def _signed(self) -> Node:
        if self._is("+", "-"):
            self._enter()
            negative = self._take().text == "-"
            value = self._signed()
            self._depth -= 1
            return Negative(value) if negative else value
        return self._power()

    def _power(self) -> Node:
        base = self._atom()
        if not self.accept("^"):
            return base
        self._enter()
        exponent = self._signed()  # right associative: 2^3^2 is 2^9
        self._depth -= 1
        return Power(base, exponent)

    def _atom(self) -> Node:
        token = self._take()
        match token.kind:
            case "number":
                return Number(token.text)
            case "variable":
                return Letter(token.text)
            case "name":
                return self._named(token)
            case "operator" if token.text in {"(", "{"}:
                value = self.sum()
                self.expect(")" if token.text == "(" else "}")
                return value
            case _:
                raise SyntaxRefusedError(f"unexpected {token.text or 'end'!r} at {token.position}")

    def _named(self, token: Token) -> Node:
        if token.text in {"pi", "e"}:
            return Constant(cast(ConstantName, token.text))
        self._enter()
        value = self._call(token)
        self._depth -= 1
        return value

    def _call(self, token: Token) -> Node:
        if token.text == "frac":
            return Binary("/", self._group(), self._group())
        if token.text != "sqrt":
            return self._function(token.text)
        if token.source == "latex" and self.accept("("):
            # \sqrt[3]{8}: the tokeniser turned the brackets into parentheses
            inside = self.sum()
            self.expect(")")
            return Root(inside, self._group()) if self._is("{") else Call("sqrt", inside)
        if token.source == "sign":
            # `√2x` is x times the root of 2, as one would write it by hand
            return Call("sqrt", self._atom())
        return Call("sqrt", self._argument())

    def _function(self, name: str) -> Node:
        exponent = None
        if self.accept("^"):  # sin^2 x
            exponent = self._atom()
            if isinstance(exponent, Negative):
                raise SyntaxRefusedError(f"{name}^-1 can be read in two ways")
        value = Call(name, self._argument())
        return value if exponent is None else Power(value, exponent)

    def _group(self) -> Node:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def _argument(self) -> Node:
        """Read what a function applies to: a group, or `2x` of `sin 2x`."""
        if self._is("(", "{"):
            return self._atom()
        value = self._power()
        while self._next.kind == "variable" or (
            self._next.kind == "name" and self._next.text in {"pi", "e"}
        ):
            value = Binary("*", value, self._power())
        return value
