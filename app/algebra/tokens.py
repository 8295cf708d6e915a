"""Text to tokens: a whitelist of characters and names, and the bounds on both."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from app.algebra.errors import SyntaxRefusedError, TooComplexError, UnknownNameError

MAX_TEXT: Final = 500
"""Characters of one expression or equation."""
MAX_TOKENS: Final = 250
"""Tokens of one expression; it bounds the number of nodes, too."""
MAX_DIGITS: Final = 40
"""Digits of one number as written."""

FUNCTIONS: Final = frozenset({
    "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "arcsin", "arccos", "arctan",
    "log", "ln", "exp", "abs", "frac",
})  # fmt: skip
CONSTANTS: Final = frozenset({"pi", "e"})

Kind = Literal["number", "name", "variable", "operator", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of the text, and whether it was a word, a LaTeX command or a sign."""

    kind: Kind
    text: str
    position: int
    source: Literal["text", "latex", "sign"] = "text"


_SYMBOLS: Final = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\uff0d": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*",
    "\u2217": "*", "\u00f7": "/", "\u2215": "/", "\uff0b": "+", "\uff1d": "=", "\uff08": "(",
    "\uff09": ")", "\uff0f": "/", "\uff0a": "*", "[": "(", "]": ")", "\u00a0": " ",
})  # fmt: skip
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LATEX_NAMES: Final = {
    "cdot": "*", "times": "*", "div": "/", "left": "", "right": "", "quad": "", "dfrac": "frac",
    "tfrac": "frac",
}  # fmt: skip
_TOKEN: Final = re.compile(
    r"(?P<space>\s+|\\[,;!: ])"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))"
    r"|\\(?P<latex>[A-Za-z]+)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<greek>[\u03b1-\u03c9])"
    r"|(?P<super>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)"
    r"|(?P<operator>\*\*|[-+*/^=(){}√])"
)
_NAMES_BY_LENGTH: Final = sorted(FUNCTIONS | {"pi"}, key=len, reverse=True)
_MAX_PRODUCT: Final = 3
"""Letters of an unknown word that may still be read as a product, such as `xyz`."""


def tokenize(text: str) -> list[Token]:
    """Cut a text into tokens.

    Args:
        text: One expression or equation.

    Returns:
        The tokens, closed by one of kind `end`.

    Raises:
        TooComplexError: The text, a number in it or the list of tokens is too long.
        SyntaxRefusedError: It holds a character that is not on the whitelist.
        UnknownNameError: It holds a word that is not on the whitelist.
    """
    if len(text) > MAX_TEXT:
        raise TooComplexError(f"the text is longer than {MAX_TEXT} characters")
    source = text.translate(_SYMBOLS)
    found: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise SyntaxRefusedError(f"unexpected {source[position]!r} at {position}")
        found += _read(match)
        if len(found) > MAX_TOKENS:
            raise TooComplexError(f"more than {MAX_TOKENS} tokens")
        position = match.end()
    found.append(Token("end", "", len(source)))
    return found


def _read(match: re.Match[str]) -> list[Token]:  # noqa: PLR0911 (one per group)
    value, start = match.group(), match.start()
    match match.lastgroup:
        case "number":
            return [_number(value, start)]
        case "word":
            return _split_word(value, start)
        case "latex":
            return _read_latex(match.group("latex"), start)
        case "greek":
            return [_greek(value, start)]
        case "super":
            return _superscript(value, start)
        case "operator":
            return [_operator(value, start)]
        case _:
            return []


def _number(value: str, start: int) -> Token:
    if len(value) > MAX_DIGITS:
        raise TooComplexError(f"a number has more than {MAX_DIGITS} digits")
    return Token("number", value, start)


def _greek(value: str, start: int) -> Token:
    if value == "\u03c0":
        return Token("name", "pi", start)
    return Token("variable", value, start)


def _operator(value: str, start: int) -> Token:
    if value == "√":
        return Token("name", "sqrt", start, "sign")
    return Token("operator", "^" if value == "**" else value, start)


def _superscript(value: str, start: int) -> list[Token]:
    digits = value.translate(_SUPERSCRIPTS)
    if not re.fullmatch(r"-?[0-9]{1,3}", digits):
        raise SyntaxRefusedError(f"unreadable exponent at {start}")
    return [
        Token("operator", "^", start),
        Token("operator", "(", start),
        *([Token("operator", "-", start)] if digits[0] == "-" else []),
        Token("number", digits.lstrip("-"), start),
        Token("operator", ")", start),
    ]


def _read_latex(name: str, start: int) -> list[Token]:
    name = _LATEX_NAMES.get(name, name)
    if not name:
        return []
    if name in {"*", "/"}:
        return [Token("operator", name, start)]
    if name in FUNCTIONS or name in CONSTANTS:
        return [Token("name", name, start, "latex")]
    if name in {"theta", "alpha", "beta"}:
        return [Token("variable", name, start)]
    raise UnknownNameError(f"unknown name \\{name}")


def _split_word(word: str, start: int) -> list[Token]:
    """Read `sinx` as sin x and `xy` as x y, but refuse longer words that say nothing."""
    tokens: list[Token] = []
    rest, letters = word, 0
    while rest:
        lowered = rest.lower()
        known = next((name for name in _NAMES_BY_LENGTH if lowered.startswith(name)), None)
        if known is not None and known != "frac":
            tokens.append(Token("name", known, start))
            rest = rest[len(known) :]
            continue
        letters += 1
        if letters > _MAX_PRODUCT:
            raise UnknownNameError(f"unknown name {word!r}")
        letter, rest = rest[0], rest[1:]
        tokens.append(Token("name" if letter == "e" else "variable", letter, start))
    return tokens
