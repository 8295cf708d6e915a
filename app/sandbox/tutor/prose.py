"""Finds the mathematics in a student's sentence: what is quoted, else the longest that parses.

Nothing is computed here: a piece counts as mathematics when the grammar of `app.algebra`
reads it and it says something, so that a stray "a" or "I" is not taken for a variable.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

from app.algebra import AlgebraError, Equation, Node, letters, parse

MAX_TEXT: Final = 4_000
"""Characters of a message that are searched; reading prose must not become work."""
MAX_PIECES: Final = 8
"""Pieces of mathematics that one message may hold."""
_MAX_WORDS: Final = 16
"""Words of a stretch up to which every combination is read; of longer ones, few are."""
_MAX_STRAY: Final = 3
"""Words that are dropped at either end of a longer stretch."""
_MAX_RUNS: Final = 40
"""Stretches of one message that are read."""

_QUOTED: Final = re.compile(
    r"```(?:[a-z]+\n)?(.+?)```|`([^`]+)`|\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_THOUSANDS: Final = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BULLET: Final = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", re.MULTILINE)
_DATE: Final = re.compile(r"(?<!\d)\d{4}-\d{1,2}-\d{1,2}(?!\d)")
_STRETCH: Final = re.compile(r"[A-Za-z0-9α-ω⁰¹²³⁴⁵⁶⁷⁸⁹⁻+\-−–×÷·⋅*/^=().{}\\√ \t]+")  # noqa: RUF001
_FUNCTIONS: Final = r"(?:sqrt|a?(?:rc)?sin|a?(?:rc)?cos|a?(?:rc)?tan|log|ln|exp|abs|pi)"
_WORD_OF_PROSE: Final = re.compile(rf"(?!\\?{_FUNCTIONS}+[A-Za-z]?$)[A-Za-z]{{2,}}", re.ASCII)
_NAMED: Final = re.compile(rf"\\?{_FUNCTIONS}$")
_OPENS: Final = re.compile(r"[+\-−–×÷·⋅*/^=({]$")  # noqa: RUF001 (signs of students)
_CONTINUES: Final = re.compile(r"^[+\-−–×÷·⋅*/^=)}]")  # noqa: RUF001 (signs of students)
_OPERATION: Final = re.compile(rf"[+*/^×÷·⋅√⁰¹²³⁴⁵⁶⁷⁸⁹]|{_FUNCTIONS}")  # noqa: RUF001
_DIFFERENCE: Final = re.compile(r"[\dA-Za-z)]\s*[-−–]\s*[\dA-Za-z(]")  # noqa: RUF001
_SIGN: Final = re.compile(rf"[\d=]|{_OPERATION.pattern}|{_DIFFERENCE.pattern}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that reads as mathematics."""

    text: str
    statement: Node | Equation

    @property
    def is_equation(self) -> bool:
        """Whether it has two sides."""
        return isinstance(self.statement, Equation)

    @property
    def letters(self) -> frozenset[str]:
        """The names of its variables."""
        return letters(self.statement)


def find_pieces(text: str) -> list[Piece]:
    """Find the mathematics of a message, in the order of the text.

    Args:
        text: Korean or English prose; what stands in backticks or LaTeX delimiters is
            taken as a whole and wins over the rest.
    """
    text = text[:MAX_TEXT]
    quoted = [piece for match in _QUOTED.finditer(text) for piece in _quoted(match)]
    return (quoted or list(_unquoted(text)))[:MAX_PIECES]


def _quoted(match: re.Match[str]) -> Iterator[Piece]:
    inside = next(group for group in match.groups() if group is not None)
    for part in re.split(r"[,;\n]|\\\\", _without_thousands(inside)):
        piece = _read(part)
        if piece is not None:
            yield piece


def _unquoted(text: str) -> Iterator[Piece]:
    text = _BULLET.sub("; ", _DATE.sub(";", _without_thousands(text)))
    stretches = (match.group() for match in _STRETCH.finditer(text))
    runs = (run for stretch in stretches for run in _runs(stretch) if _SIGN.search(" ".join(run)))
    for run in islice(runs, _MAX_RUNS):
        piece = _longest(run)
        if piece is not None:
            yield piece


def _without_thousands(text: str) -> str:
    return _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)


def _runs(stretch: str) -> Iterator[list[str]]:
    """Cut a stretch where prose stands, or where two words do not join to one formula."""
    run: list[str] = []
    for word in [_trimmed(word) for word in stretch.split()]:
        is_prose = _WORD_OF_PROSE.fullmatch(word) is not None or not word
        if run and (is_prose or not _joins(run[-1], word)):
            yield run
            run = []
        if not is_prose:
            run.append(word)
    if run:
        yield run


def _trimmed(word: str) -> str:
    """Drop the full stop of a sentence, but not the point of a decimal."""
    return word.rstrip(".").lstrip(".") if not re.match(r"\.\d", word) else word.rstrip(".")


def _joins(left: str, right: str) -> bool:
    """Whether a space between two words can be inside a formula: not in `for x 2x = 3`."""
    if _OPENS.search(left) or _CONTINUES.match(right) or _NAMED.search(left):
        return True
    if left[-1] in ")}" and right[0] in "({":
        return True
    return left[-1].isdigit() and bool(re.match(rf"[b-hj-z]\b|{_FUNCTIONS}", right))


def _longest(run: list[str]) -> Piece | None:
    shortest = 1 if len(run) <= _MAX_WORDS else len(run) - _MAX_STRAY
    for length in range(len(run), shortest - 1, -1):
        for start in range(len(run) - length + 1):
            piece = _read(" ".join(run[start : start + length]))
            if piece is not None and _says_something(piece):
                return piece
    return None


def _read(text: str) -> Piece | None:
    text = re.sub(r"=\s*\??\s*$", "", text.strip().rstrip("?!.")).strip()
    if not text:
        return None
    try:
        return Piece(text, parse(text))
    except AlgebraError:
        return None


def _says_something(piece: Piece) -> bool:
    """Tell formulas from numbers and letters that merely stand in a sentence."""
    if piece.is_equation or _OPERATION.search(piece.text):
        return True
    if _DIFFERENCE.search(piece.text):
        return not re.fullmatch(r"[A-Za-z]+-[A-Za-z]+", piece.text)
    return any(a.isdigit() and b.isalpha() for a, b in pairwise(piece.text))
