"""What a message asks for: which mathematics, what to do with it, and how much to say.

Only the words of the conversation decide, so the same turns always ask the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from app.algebra import Task
from app.sandbox.tutor.prose import MAX_TEXT, Piece, find_pieces

Language = Literal["ko", "en"]
Intent = Literal["solve", "evaluate", "differentiate", "integrate", "check"]

_HANGUL: Final = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_WORDS: Final = re.compile(r"[^\W\d_]{3,}")
_EXPLAIN: Final = re.compile(
    r"설명|자세|이해|단계|과정|왜\s|어떻게|모르겠|explain|detail|understand|step|\bwhy\b"
    r"|\bhow\b(?! are you)|elaborate|clarify|confus|don'?t get|show (?:me )?(?:the|your) work",
    re.IGNORECASE,
)
_INTENTS: Final[tuple[tuple[Intent, re.Pattern[str]], ...]] = (
    ("integrate", re.compile(r"적분|integra|antiderivative|∫|\\int(?![a-z])", re.IGNORECASE)),
    (
        "differentiate",
        re.compile(
            r"미분|도함수|derivative|differentiat|d\s*/\s*d[a-z]\b|\\frac\{d\}", re.IGNORECASE
        ),
    ),
    ("solve", re.compile(r"풀|solve", re.IGNORECASE)),
    (
        "check",
        re.compile(
            r"맞나|맞아|맞습|맞는지|[해근참]인가요|성립|\bcheck\b|verify|is it true|correct"
            r"|\bis\b.*\ba (?:solution|root)\b",
            re.IGNORECASE,
        ),
    ),
    (
        "solve",
        re.compile(
            r"방정식|[근해][을를은는이가]|equation|solution|roots?\b|zeros?\b", re.IGNORECASE
        ),
    ),
    (
        "evaluate",
        re.compile(r"계산|얼마|값|전개|compute|calculat|evaluate|expand|simplif", re.IGNORECASE),
    ),
)
_BEYOND: Final = re.compile(
    r"인수\s*분해|극한|그래프|증명|행렬|factor|\blimit\b|graph|\bplot|prove|matrix", re.IGNORECASE
)
_POINTS_BACK: Final = re.compile(
    r"그것|그걸|이것|이걸|그\s*식|이\s*식|그\s*함수|이\s*함수|위\s*식|방금|같은|\bit\b|\bthat\b|\bthis\b"
    r"|\bsame\b",
    re.IGNORECASE,
)
_SECOND: Final = re.compile(r"second derivative|twice|이계\s*도함수|두\s*번\s*미분", re.IGNORECASE)
_SYSTEM: Final = re.compile(r"연립|system|simultaneous", re.IGNORECASE)
_BY: Final = re.compile(
    r"\\frac\{d\}\{d([a-z])\}|\bd\s*/\s*d([a-z])\b|\\?,?\s*(?<![a-zA-Z\\])d([xyztu])(?![a-zA-Z])"
    r"|(?<=[\da-z)}])d([xyzt])(?![a-zA-Z])"
)
_FOR: Final = re.compile(
    r"\bfor\s+([a-zA-Z])\b(?!\s*=)|with respect to\s+([a-zA-Z])\b"
    r"|([a-zA-Z])에\s*(?:대해|대하여|관해)"
)
_BOUNDS: Final = (
    re.compile(r"(?:∫|\\int)\s*_\s*\{?([^{}^\s]+?)\}?\s*\^\s*(?:\{([^{}]+)\}|(\S))"),
    re.compile(r"\bfrom\s+(?:[a-z]\s*=\s*)?(\S+)\s+to\s+(\S+?)(?=[\s,.?!]|$)"),
    re.compile(r"\bbetween\s+(\S+)\s+and\s+(\S+?)(?=[\s,.?!]|$)"),
    re.compile(r"(\S{1,40}?)\s*(?:부터|에서)\s*(\S{1,40}?)\s*까지"),
)
_DEFINITION: Final = re.compile(r"(?<![A-Za-z])(?:[a-zA-Z]'?\s*\([a-z]\)|y)\s*=(?!=)\s*")
_MAX_TASKS: Final = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One message, understood.

    Attributes:
        language: To answer in.
        tasks: For the algebra; empty when there is no mathematics to do.
        assumed_zero: Whether `= 0` was added to an expression that is to be solved.
        in_detail: Whether steps are wanted.
        intent: What is to be done, as far as words say so.
        is_beyond: Whether something is asked that the algebra has no function for.
    """

    language: Language
    tasks: tuple[Task, ...]
    assumed_zero: bool
    in_detail: bool
    intent: Intent | None
    is_beyond: bool


def understand(turns: Sequence[tuple[str, str]]) -> Question:
    """Work out what the last message of a conversation asks.

    Args:
        turns: Pairs of role (`user` or `assistant`) and text, oldest first.

    Returns:
        The question; an explanation, or words such as "differentiate it", is about the
        newest mathematics before, the student's own where there is any.
    """
    newest = turns[-1][1][:MAX_TEXT] if turns else ""
    asked = _read(newest, language_of(turns))
    if asked.tasks or asked.is_beyond:
        return asked
    points_back = asked.intent is not None and _POINTS_BACK.search(newest) is not None
    if not (asked.in_detail or points_back):
        return asked
    intent = asked.intent if points_back else None
    for role in ("user", "assistant"):
        for speaker, text in reversed(turns[:-1]):
            earlier = _read(text[:MAX_TEXT], asked.language, intent) if speaker == role else asked
            if earlier.tasks:
                return replace(earlier, in_detail=asked.in_detail)
    return asked


def language_of(turns: Sequence[tuple[str, str]]) -> Language:
    """Return the language that the student writes."""
    """Tell the language of the newest message that has words at all."""
    for role, text in reversed(turns):
        words = text[:MAX_TEXT]
        if role == "user" and _HANGUL.search(words):
            return "ko"
        if role == "user" and _WORDS.search(words):
            return "en"
    return "en"


def _read(text: str, language: Language, wanted: Intent | None = None) -> Question:
    intent = wanted or _intent(text)
    in_detail, is_beyond = bool(_EXPLAIN.search(text)), bool(_BEYOND.search(text))
    tasks: list[Task] = []
    assumed_zero = False
    if is_beyond and intent is None:
        pass
    elif intent == "integrate" or intent == "differentiate":  # noqa: PLR1714 (narrows the type)
        tasks = _calculus(text, intent)
    else:
        tasks, assumed_zero = _algebra(text, intent)
    beyond = is_beyond and not tasks
    return Question(language, tuple(tasks), assumed_zero, in_detail, intent, beyond)


def _intent(text: str) -> Intent | None:
    for intent, words in _INTENTS:
        if words.search(text):
            return intent
    return None


def _calculus(text: str, intent: Literal["integrate", "differentiate"]) -> list[Task]:
    options: dict[str, str | int] = {}
    if intent == "integrate":
        text, options = _take_bounds(text)
    elif _SECOND.search(text):
        options = {"order": 2}
    variable = _named(_BY, text) or _named(_FOR, text)
    text = _FOR.sub(" ; ", _BY.sub(" ; ", text)) if variable is not None else text
    text = _DEFINITION.sub("", text.replace("\\int", " ").replace("∫", " "))
    for piece in find_pieces(text):
        source = piece.text
        if piece.is_equation:
            left, _, right = source.partition("=")
            source = left if right.strip() == "0" else right
        if variable is not None and variable in piece.letters:
            options = {**options, "variable": variable}
        return [Task(intent, (source.strip(),), options)]
    return []


def _take_bounds(text: str) -> tuple[str, dict[str, str | int]]:
    for pattern in _BOUNDS:
        found = pattern.search(text)
        if found is not None:
            low, high = (group.strip("`$") for group in found.groups() if group is not None)
            rest = f"{text[: found.start()]} {text[found.end() :]}"
            return rest, {"lower": low, "upper": high}
    return text, {}


def _algebra(text: str, intent: Intent | None) -> tuple[list[Task], bool]:
    pieces = find_pieces(text)
    equations = [piece for piece in pieces if piece.is_equation]
    if equations:
        return _equations(equations, text, intent), False
    if intent == "solve":
        unknown = [piece for piece in pieces if piece.letters]
        if unknown:
            return [Task("solve_equation", (f"{unknown[0].text} = 0",))], True
    return [Task("evaluate", (piece.text,)) for piece in pieces[:_MAX_TASKS]], False


def _equations(equations: list[Piece], text: str, intent: Intent | None) -> list[Task]:
    if intent == "check" and len(equations) > 1:
        checked = _check(equations)
        if checked is not None:
            return [checked]
    everything = frozenset[str]().union(*(piece.letters for piece in equations))
    several = len(equations) > 1 and len(everything) > 1
    if several and (_SYSTEM.search(text) or any(len(each.letters) > 1 for each in equations)):
        return [Task("solve_system", tuple(piece.text for piece in equations))]
    variable = _named(_FOR, text)
    tasks: list[Task] = []
    for piece in equations[:_MAX_TASKS]:
        if not piece.letters or (intent == "check" and len(piece.letters) > 0):
            tasks.append(Task("check_equation", (piece.text,)))
        else:
            options = {"variable": variable} if variable in piece.letters else {}
            tasks.append(Task("solve_equation", (piece.text,), options))
    return tasks


def _check(equations: list[Piece]) -> Task | None:
    """Make one task of `is x = 2 a solution of 3x - 6 = 0`."""
    values: dict[str, str] = {}
    rest: list[Piece] = []
    for piece in equations:
        left, _, right = piece.text.partition("=")
        if left.strip() in piece.letters and len(piece.letters) == 1:
            values[left.strip()] = right.strip()
        else:
            rest.append(piece)
    if not values or len(rest) != 1:
        return None
    return Task("check_equation", (rest[0].text,), {"values": values})


def _named(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else next(filter(None, found.groups()), None)
