"""What readers were shown, compared with the log, with each other, and with the clock."""

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from tests.chaos.recorder import History, Look, Reading
from tests.chaos.truth import Entry, Truth
from tests.e2e.invariants import Violation, shown
from tests.stack import TERMINAL

WORD: Final = re.compile(r"canary[0-9a-f]{12}")
ID: Final = re.compile(r"\b(?:sess|msg|run|user)_[0-9a-z]{24}\b")
CUT_S: Final = 15.0
"""When a deleted session's streams have long been ended, lost wake-ups included."""
NOTED: Final = ("attempts", "output_message_id")
"""Written to a run's row between two of its events."""


def violations(history: History, truth: Truth) -> Iterator[Violation]:
    """Return everything that somebody was shown and should not have been."""
    for reading in history.readings:
        yield from _reading(reading, truth)
    yield from _agreement(history, truth)
    yield from _looks(history, truth)
    yield from _transcripts(history, truth)
    yield from _foreign(history, truth)
    yield from _deleted(history)


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text."""
    return "".join(part["text"] for part in message["content"])


def word_in(text: str) -> str | None:
    """Return the word that marks whose question this is."""
    found = WORD.findall(text)
    return found[-1] if found else None


# ---------------------------------------------------------------- streams


def _reading(reading: Reading, truth: Truth) -> Iterator[Violation]:
    """A reader is sent the log after its cursor, byte for byte, without a gap."""
    blocks = [(b.id, b.event, b.data) for b in reading.blocks if b.event != "done"]
    if any(event == "reset" for _, event, _ in blocks):
        yield Violation("reset", reading.session, "a cursor leads nowhere")
        return
    log = truth.log.get(reading.session)
    if log is None:
        yield from _contiguous(reading)
        return
    entries = [entry for entry in log if reading.run in {None, entry.run}]
    start = reading.after
    if start is None:
        start = int(blocks[0][0] or 0) - 1 if reading.run is None and blocks else 0
    owed = [(str(e.seq), e.type, e.data) for e in entries if e.seq > start]
    if blocks != owed[: len(blocks)]:
        at = next((i for i, b in enumerate(blocks) if [b] != owed[i : i + 1]), 0)
        yield Violation("stream", reading.session, f"block {at} after {start}: {blocks[at]}")
    elif reading.status == 204 or reading.end == "done":
        is_over = bool(entries) and entries[-1].type.removeprefix("run.") in TERMINAL
        if len(blocks) != len(owed) or not is_over:
            yield Violation("stream", str(reading.run), "it was ended before its end")
    if reading.blocks and "done" in [block.event for block in reading.blocks[:-1]]:
        yield Violation("stream", reading.session, "blocks follow the end")


def _contiguous(reading: Reading) -> Iterator[Violation]:
    seqs = [int(b.id or 0) for b in reading.blocks if b.event != "done"]
    start = reading.after if reading.after is not None else (seqs[0] - 1 if seqs else 0)
    whole = list(range(start + 1, start + 1 + len(seqs)))
    if reading.run is None and seqs != whole:
        yield Violation("stream", reading.session, f"{seqs} after {start}")
    if seqs != sorted(set(seqs)):
        yield Violation("stream", reading.session, f"{seqs} goes back")


def _agreement(history: History, truth: Truth) -> Iterator[Violation]:
    """Two readers of a session that is gone were shown the same."""
    seen: dict[tuple[str, str | None], tuple[str, str]] = {}
    for reading in history.readings:
        if reading.session in truth.sessions:
            continue
        for block in reading.blocks:
            if block.event == "done":
                continue
            first = seen.setdefault((reading.session, block.id), (block.event, block.data))
            if first != (block.event, block.data):
                yield Violation("stream", reading.session, f"{block.id} is two events")


# ---------------------------------------------------------------- polls


def _looks(history: History, truth: Truth) -> Iterator[Violation]:
    """A poll shows a status that the log has, as the log has it, and never an older one."""
    polls: defaultdict[str, list[Look]] = defaultdict(list)
    for look in history.looks:
        if look.kind == "run" and look.status == 200 and look.item in truth.runs:
            polls[look.item].append(look)
        if look.kind == "message" and look.status == 200 and look.session in truth.sessions:
            message = truth.messages.get(str(look.item))
            if look.body["status"] != "in_progress" and look.body != message:
                yield Violation("poll", str(look.item), "it is not the message that is stored")
    arrivals = _arrivals(history)
    for run, looks in polls.items():
        stored = truth.runs[run]
        changes = [e.body["run"] for e in truth.log[stored.session] if _changes(e, run)]
        ranks = {change["status"]: rank for rank, change in enumerate(changes)}
        known = [(at, ranks[status]) for at, status in arrivals[run] if status in ranks]
        for look in looks:
            status = look.body["status"]
            if status not in ranks:
                yield Violation("poll", run, f"it was {status}, and its log never says so")
                continue
            known.append((look.returned, ranks[status]))
            wanted = stored.body if status in TERMINAL else changes[ranks[status]]
            if _comparable(look.body, status) != _comparable(wanted, status):
                yield Violation("poll", run, f"the poll's {status} is not the stored one")
        yield from _never_older(run, looks, ranks, known)


def _changes(entry: Entry, run: str) -> bool:
    return entry.run == run and entry.type.startswith("run.") and "run" in entry.body


def _comparable(body: dict[str, Any], status: str) -> dict[str, Any]:
    if status in TERMINAL:
        return body
    return {name: value for name, value in body.items() if name not in NOTED}


def _arrivals(history: History) -> "defaultdict[str, list[tuple[float, str]]]":
    """Return when somebody had been told of each change of each run."""
    found: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for reading in history.readings:
        for block in reading.blocks:
            if block.event.startswith("run.") and block.event != "run.step":
                run = json.loads(block.data).get("run", {}).get("id")
                found[str(run)].append((block.at, block.event.removeprefix("run.")))
    for op in history.operations:
        for each in op.tries:
            if op.kind == "cancel" and each.status == 202:
                found[str(op.run)].append((each.returned, each.body["status"]))
    return found


def _never_older(
    run: str, looks: Sequence[Look], ranks: dict[str, int], known: list[tuple[float, int]]
) -> Iterator[Violation]:
    known.sort()
    times = [at for at, _ in known]
    highest = list(accumulate((rank for _, rank in known), max))
    for look in looks:
        before = bisect_left(times, look.invoked)
        status = look.body["status"]
        if before and status in ranks and ranks[status] < highest[before - 1]:
            yield Violation("poll", run, f"it was {status} after somebody had seen more")


def _transcripts(history: History, truth: Truth) -> Iterator[Violation]:
    """A transcript is what a reader of the log up to its `last_seq` would show."""
    for look in history.looks:
        log = truth.log.get(look.session)
        if look.kind != "transcript" or look.status != 200 or log is None:
            continue
        told = [entry for entry in log if entry.seq <= look.body["last_seq"]]
        wanted = _told(told)
        listed = {body["id"]: body for body in look.body["data"]}
        if look.body["has_more"]:
            wanted = {id_: body for id_, body in wanted.items() if id_ in listed}
        if listed != wanted:
            odd = [id_ for id_ in listed | wanted if listed.get(id_) != wanted.get(id_)]
            yield Violation("transcript", look.session, f"{odd} differ at {len(told)}")


def _told(log: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    messages: dict[str, dict[str, Any]] = {}
    grown: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in log:
        body = entry.body
        if "message" in body:
            messages[body["message"]["id"]] = body["message"]
        elif "message_id" in body:
            grown[body["message_id"]].append(body)
    for id_, message in messages.items():
        if message["status"] == "in_progress":
            parts = shown(grown[id_])
            texts = [parts[part] for part in sorted(parts)]
            content = [{"type": "text", "text": text, "annotations": []} for text in texts]
            messages[id_] = {**message, "content": content}
    return messages


# ---------------------------------------------------------------- nobody else's, nothing gone


def _foreign(history: History, truth: Truth) -> Iterator[Violation]:
    """Nobody is ever shown an id or a word of somebody else's."""
    owners = _owners(history, truth)
    for user, where, text in _everything_shown(history):
        for name in {*ID.findall(text), *WORD.findall(text)}:
            if owners.get(name, user) != user:
                yield Violation("foreign", where, f"{user} was shown {name} of {owners[name]}")
    for reading in history.readings:
        for block in reading.blocks:
            if block.event != "done" and f'"{reading.session}"' not in block.data:
                yield Violation("foreign", reading.session, f"{block.id} is of another session")


def _owners(history: History, truth: Truth) -> dict[str, str]:
    """Return whose each id and each word is, as far as anybody was ever told."""
    owners: dict[str, str] = dict(truth.owners)
    for run_id, run in truth.runs.items():
        owners[run_id] = truth.owners[run.session]
    for message_id, body in truth.messages.items():
        owners[message_id] = truth.owners[body["session_id"]]
    for op in history.operations:
        owners[op.word] = op.user
        for answer in op.answers:
            is_pair = op.kind in {"post", "store"}
            told = [answer["message"], answer["run"]] if is_pair else [answer]
            owners |= {each["id"]: op.user for each in told if isinstance(each, dict)}
    return owners


def _everything_shown(history: History) -> Iterator[tuple[str, str, str]]:
    for reading in history.readings:
        yield reading.user, reading.session, "\n".join(block.data for block in reading.blocks)
    for look in history.looks:
        yield look.user, look.session, json.dumps(look.body)
    for op in history.operations:
        yield op.user, op.word, json.dumps([each.body for each in op.tries])


def _deleted(history: History) -> Iterator[Violation]:
    """Deleted is gone at once; and nothing else ever is."""
    gone: dict[str, float] = {}
    asked: dict[str, float] = {}
    for op in history.operations:
        if op.kind == "delete" and op.session:
            gone[op.session] = min(gone.get(op.session, float("inf")), op.done)
            asked[op.session] = min(asked.get(op.session, float("inf")), op.invoked)
    never = float("inf")
    for look in history.looks:
        if look.status == 200 and look.invoked > gone.get(look.session, never):
            yield Violation("deleted", look.session, f"a {look.kind} is still shown")
        if look.status == 404 and look.returned < asked.get(look.session, never):
            yield Violation("lost", look.session, f"a {look.kind} can't be found")
    for reading in history.readings:
        end = gone.get(reading.session, never)
        last = reading.blocks[-1].at if reading.blocks else 0.0
        if (reading.opened > end and reading.blocks) or last > end + CUT_S:
            yield Violation("deleted", reading.session, "it is still streamed")
        if reading.status == 404 and reading.answered < asked.get(reading.session, never):
            yield Violation("lost", reading.session, "its stream can't be found")
