"""Trees back to text, as the student wrote them: nothing is evaluated or reordered."""

from typing import Final

from app.algebra.nodes import (
    Binary,
    Call,
    Constant,
    Letter,
    Negative,
    Node,
    Number,
    Power,
    Root,
)
from app.algebra.render import Rendered
from app.algebra.tokens import FUNCTIONS

_SUM: Final = 1
_PRODUCT: Final = 2
_POWER: Final = 3
_ATOM: Final = 4
_NAMES: Final = (*FUNCTIONS, "pi")


def echo(node: Node) -> Rendered:
    """Write a tree as LaTeX and as plain text."""
    return Rendered(_latex(node), _plain(node))


def _rank(node: Node) -> int:
    match node:
        case Binary(operator):
            return _PRODUCT if operator in "*/" else _SUM
        case Negative():
            return _SUM
        case Power():
            return _POWER
        case _:
            return _ATOM


def _plain(node: Node) -> str:
    match node:
        case Number(text) | Letter(text):
            return text
        case Constant(name):
            return "π" if name == "pi" else "e"
        case Negative(of):
            return f"-{_plain_at(of, _PRODUCT)}"
        case Power(base, exponent):
            return f"{_plain_at(base, _ATOM)}^{_plain_at(exponent, _ATOM)}"
        case Binary():
            return _plain_binary(node)
        case _:
            return _plain_call(node)


def _plain_call(node: Call | Root) -> str:
    match node:
        case Call("sqrt", Number() | Letter() as argument):
            return f"√{_plain(argument)}"
        case Call("sqrt", argument):
            return f"√({_plain(argument)})"
        case Call(name, argument):
            return f"{name}({_plain(argument)})"
        case Root(degree, radicand):
            return f"{_plain_at(radicand, _ATOM)}^(1/{_plain_at(degree, _ATOM)})"


def _plain_binary(node: Binary) -> str:
    if node.operator in "+-":
        left = _plain(node.left)
        return f"{left} {node.operator} {_plain_at(node.right, _PRODUCT)}"
    left, right = _plain_at(node.left, _PRODUCT), _plain_at(node.right, _POWER)
    if node.operator == "/":
        return f"{left}/{right}"
    return f"{left}{right}" if _juxtaposed(left, right) else f"{left} \u00d7 {right}"


def _plain_at(node: Node, rank: int) -> str:
    text = _plain(node)
    return text if _rank(node) >= rank else f"({text})"


def _juxtaposed(left: str, right: str) -> bool:
    """Tell whether two factors can stand side by side and still be read as a product."""
    if right[0].isdigit() or "/" in left:
        return False
    if not left[-1].isalpha():
        return True
    # letters that come to spell a function would be read as one: p times i is not pi
    spelt = (_word(left[::-1])[::-1] + right[0]).lower()
    return right[0] != "(" and len(_word(right)) <= 1 and not spelt.endswith(_NAMES)


def _word(text: str) -> str:
    letters = 0
    while letters < len(text) and text[letters].isalpha():
        letters += 1
    return text[:letters]


def _latex(node: Node) -> str:  # noqa: PLR0911 (one per kind)
    match node:
        case Number(text):
            return text
        case Letter(name):
            return name if len(name) == 1 else f"\\{name}"
        case Constant(name):
            return "\\pi" if name == "pi" else "e"
        case Negative(of):
            return f"-{_latex_at(of, _PRODUCT)}"
        case Power(base, exponent):
            return f"{_latex_at(base, _ATOM)}^{{{_latex(exponent)}}}"
        case Binary():
            return _latex_binary(node)
        case _:
            return _latex_call(node)


def _latex_call(node: Call | Root) -> str:
    match node:
        case Call("sqrt", argument):
            return f"\\sqrt{{{_latex(argument)}}}"
        case Call("abs", argument):
            return f"\\left|{_latex(argument)}\\right|"
        case Call(name, argument):
            command = name if name not in {"asin", "acos", "atan"} else f"arc{name[1:]}"
            return f"\\{command}{_fenced(_latex(argument))}"
        case Root(degree, radicand):
            return f"\\sqrt[{_latex(degree)}]{{{_latex(radicand)}}}"


def _latex_binary(node: Binary) -> str:
    if node.operator in "+-":
        return f"{_latex(node.left)} {node.operator} {_latex_at(node.right, _PRODUCT)}"
    if node.operator == "/":
        return f"\\frac{{{_latex(node.left)}}}{{{_latex(node.right)}}}"
    # a fraction is closed by its braces: as a right factor it needs no parentheses
    left, right = _latex_at(node.left, _PRODUCT), _latex_at(node.right, _POWER)
    if isinstance(node.right, Binary) and node.right.operator == "/":
        right = _latex(node.right)
    if right[0].isdigit() or right.startswith("\\frac"):
        return f"{left} \\cdot {right}"
    # \pi and x side by side would be one command, \pix; e, x and p would be a function
    is_word = left[-1].isalpha() and right[0].isalpha()
    return f"{left} {right}" if is_word or right.startswith("\\") else f"{left}{right}"


def _latex_at(node: Node, rank: int) -> str:
    text = _latex(node)
    return text if _rank(node) >= rank else _fenced(text)


def _fenced(text: str) -> str:
    return f"\\left({text}\\right)" if "\\frac" in text else f"({text})"
