"""Compare what clients saw with what is stored, offline, when all is over.

`violations` returns every promise that a history breaks. The database alone is checked by
`tests.e2e.invariants`; here its rows are the truth that all views must agree with.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos import views
from tests.chaos.recorder import DONE, History, Operation, Outcome
from tests.chaos.truth import Truth
from tests.e2e.invariants import Violation
from tests.stack import TERMINAL

DEFECTS: Final = {500, 501, 502}
"""Answers that no trouble excuses."""
TURNED_AWAY: Final = ("conversation_locked", "Conversation with id", "No tool output found")
"""How an upstream says that it did not even begin, for the thread's sake."""


def violations(history: History, truth: Truth, *, life_s: float) -> list[Violation]:
    """Return all that is wrong with a history; no run may live longer than `life_s`."""
    found = [*_operations(history, truth), *_phantoms(history, truth), *_losses(history, truth)]
    found += [*_ends(truth, life_s), *_answers(history, truth), *_posts(truth)]
    found += [*_defects(history), *views.violations(history, truth)]
    return found + [Violation("stuck", "reader", why) for why in history.stuck]


# ---------------------------------------------------------------- what was asked to be done


def _operations(history: History, truth: Truth) -> Iterator[Violation]:
    gone, said, asked = _deleted(history), _said(truth), _asked(truth)
    for op in history.operations:
        if op.kind in {"post", "store"} and op.session in truth.sessions:
            yield from _message(op, said[op.word], asked)
        elif op.kind == "again" and op.session in truth.sessions:
            runs = [id_ for id_, run in truth.runs.items() if _mark(run.body) == op.word]
            yield from _count(op, "runs", runs, [body["id"] for body in op.answers])
        elif op.kind == "open":
            made = [id_ for id_, body in truth.sessions.items() if _mark(body) == op.word]
            told = [body["id"] for body in op.answers]
            if made or not set(told) <= gone:
                yield from _count(op, "sessions", made, told)
        first = op.answers[0] if op.answers else None
        if op.kind in {"open", "post", "store", "again"} and any(a != first for a in op.answers):
            yield Violation("repeat", op.word, "one key was answered in two ways")
        if op.key is not None and op.session not in gone:
            yield from _repeats(op)


def _repeats(op: Operation) -> Iterator[Violation]:
    """What was done once is never refused when it is asked for again."""
    is_done = False
    for each in op.tries:
        if is_done and each.status not in DONE and not each.is_open:
            yield Violation("repeat", op.word, f"it was done, and then refused: {each.status}")
        is_done = is_done or each.status in DONE


def _said(truth: Truth) -> "defaultdict[str, list[str]]":
    """Return the users' messages by the words in them."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for id_, body in truth.messages.items():
        if body["role"] == "user":
            for word in set(views.WORD.findall(views.text_of(body))):
                found[word].append(id_)
    return found


def _asked(truth: Truth) -> "defaultdict[str, list[str]]":
    """Return the runs that came with a message, by that message."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for id_, run in truth.runs.items():
        if _mark(run.body) is None:
            found[str(run.body["input_message_id"])].append(id_)
    return found


def _message(
    op: Operation, stored: list[str], asked: "defaultdict[str, list[str]]"
) -> Iterator[Violation]:
    yield from _count(op, "messages", stored, [body["message"]["id"] for body in op.answers])
    runs = [run for message in stored for run in asked[message]]
    if op.kind == "store":
        if runs:
            yield Violation("stored", op.word, "a message without a run has one")
    else:
        yield from _count(op, "runs", runs, [body["run"]["id"] for body in op.answers])
        if len(runs) != len(stored):
            yield Violation("stored", op.word, f"{len(stored)} messages, {len(runs)} runs")


def _count(op: Operation, what: str, ids: list[str], told: list[str]) -> Iterator[Violation]:
    """Check that as many are stored as the client's knowledge allows, and under that name."""
    allowed = {Outcome.OK: {1}, Outcome.FAILED: {0}, Outcome.UNKNOWN: {0, 1}}[op.outcome]
    if len(ids) not in allowed:
        yield Violation("stored", op.word, f"{op.kind} came out {op.outcome}: {len(ids)} {what}")
    elif any(id_ not in ids for id_ in told):
        yield Violation("stored", op.word, f"the client was told of other {what}")


def _mark(body: dict[str, Any]) -> Any:
    return body["metadata"].get("word")


def _deleted(history: History) -> set[str]:
    """Return the sessions that somebody wanted deleted, whatever came of it."""
    return {op.session for op in history.operations if op.kind == "delete" and op.session}


def _phantoms(history: History, truth: Truth) -> Iterator[Violation]:
    """Nothing is stored that nobody asked for."""
    words = {op.word for op in history.operations if op.kind in {"post", "store"}}
    for id_, body in truth.messages.items():
        if body["role"] == "user" and views.word_in(views.text_of(body)) not in words:
            yield Violation("phantom", id_, "nobody said this")
    again = {op.word for op in history.operations if op.kind == "again"}
    for id_, run in truth.runs.items():
        mark = _mark(run.body)
        if mark is not None and mark not in again:
            yield Violation("phantom", id_, "nobody asked for this run")
    opened = {op.word for op in history.operations if op.kind == "open"}
    for id_, body in truth.sessions.items():
        if _mark(body) not in opened:
            yield Violation("phantom", id_, "nobody opened this session")


def _losses(history: History, truth: Truth) -> Iterator[Violation]:
    """A session goes only when its user deletes it, and stays gone."""
    wanted = _deleted(history)
    for op in history.operations:
        if op.session and op.session not in truth.sessions and op.session not in wanted:
            yield Violation("lost", op.session, "nobody deleted it")
        if op.kind != "delete":
            continue
        if op.outcome is Outcome.OK and op.session in truth.sessions:
            yield Violation("deleted", str(op.session), "it is there again")


# ---------------------------------------------------------------- what became of it


def _ends(truth: Truth, life_s: float) -> Iterator[Violation]:
    for id_, run in truth.runs.items():
        status = run.body["status"]
        if status not in TERMINAL:
            yield Violation("end", id_, f"it is still {status}")
        if run.life_s is not None and run.life_s > life_s:
            yield Violation("end", id_, f"it lived for {run.life_s:.1f} s")
    answers = Counter(b["run_id"] for b in truth.messages.values() if b["role"] == "assistant")
    for id_, count in answers.items():
        if count > 1:
            yield Violation("answers", str(id_), f"it has {count} answers")


def _answers(history: History, truth: Truth) -> Iterator[Violation]:
    """A complete answer is one to its own question."""
    wanted = {op.word: op.says for op in history.operations if op.says is not None}
    for id_, run in truth.runs.items():
        asked = truth.messages.get(str(run.body["input_message_id"]))
        answer = truth.messages.get(str(run.body["output_message_id"]))
        if run.body["status"] != "completed" or asked is None:
            continue
        word = views.word_in(views.text_of(asked))
        says = wanted.get(word) if word else None
        if says is not None and (answer is None or says not in views.text_of(answer)):
            yield Violation("answers", id_, f"it does not answer {word}")


def _posts(truth: Truth) -> Iterator[Violation]:
    """The upstream was never asked for more generations than were recorded before."""
    asked: Counter[str] = Counter()
    for post in truth.posts:
        word = views.word_in(post["text"])
        refusal = post["refusal"] or ""
        if word is not None and not refusal.startswith(TURNED_AWAY):
            asked[word] += 1
    recorded: defaultdict[str, int] = defaultdict(int)
    for run in truth.runs.values():
        question = truth.messages.get(str(run.body["input_message_id"]))
        word = views.word_in(views.text_of(question)) if question else None
        if word is not None:
            recorded[word] += run.body["attempts"]
    for word, attempts in recorded.items():
        if asked[word] > attempts:
            yield Violation("posts", word, f"{asked[word]} requests, {attempts} attempts")


def _defects(history: History) -> Iterator[Violation]:
    answers = [(op.word, each.status) for op in history.operations for each in op.tries]
    answers += [(look.session, look.status) for look in history.looks]
    for where, status in answers:
        if status in DEFECTS:
            yield Violation("defect", where, f"answered {status}")
    for reading in history.readings:
        if reading.status not in {None, 200, 204, 404, 429}:
            yield Violation("defect", reading.session, f"a stream was answered {reading.status}")
