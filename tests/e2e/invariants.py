"""What must hold of every history, whatever was killed: checked in the tables, after the fact.

Log, rows and polls are compared as JSON values, since they are written by different statements.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import asyncpg

from app.adapters.postgres.rows import message_of, run_of, step_of
from app.domain.events import dump
from tests.stack import TERMINAL, Block

FOLLOWS: Final[Mapping[str, frozenset[str]]] = {
    "queued": frozenset({"in_progress", "cancelled", "expired"}),
    # At once `cancelled`: by somebody upstream, not by its student.
    "in_progress": frozenset(TERMINAL | {"requires_action", "cancelling"}),
    "requires_action": frozenset({"queued", "cancelled", "expired"}),
    "cancelling": frozenset(TERMINAL),
}
ACTIVE: Final = {"in_progress", "requires_action", "cancelling"}
CANARY_KEY: Final = "sk-canary-in-no-log"


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that a history breaks."""

    kind: str
    """`log`, `order`, `run`, `end`, `answers`, `deltas`, `message` or `session`."""
    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, with its data parsed."""

    seq: int
    type: str
    run_id: str | None
    data: dict[str, Any]


async def check(database_url: str, *, ended: bool = True) -> None:
    """Fail with every violation; with `ended`, a run that goes on is one too."""
    connection = await asyncpg.connect(database_url)
    try:
        found = await violations(connection, ended=ended)
    finally:
        await connection.close()
    assert not found, "\n".join(map(str, found))


async def violations(connection: Any, *, ended: bool = True) -> list[Violation]:
    """Return all that is wrong in a database."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        sessions = await connection.fetch("SELECT * FROM sessions WHERE deleted_at IS NULL")
        runs = _by_session(await connection.fetch("SELECT * FROM runs ORDER BY seq"))
        messages = _by_session(await connection.fetch("SELECT * FROM messages ORDER BY seq"))
        events = _by_session(await connection.fetch("SELECT * FROM events ORDER BY seq"))
        steps = _by_session(await _steps(connection))
    found: list[Violation] = []
    for session in sessions:
        id_ = session["id"]
        history = History(session, runs[id_], messages[id_], events[id_], steps[id_])
        found += history.violations(ended=ended)
    return found


async def _steps(connection: Any) -> Sequence[Any]:
    """Return the rows of steps; releases before them have none."""
    if await connection.fetchval("SELECT to_regclass('run_steps') IS NULL"):
        return []
    return list(await connection.fetch("SELECT * FROM run_steps ORDER BY seq"))


def _by_session(rows: Iterable[Any]) -> "defaultdict[str, list[Any]]":
    grouped: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        grouped[row["session_id"]].append(row)
    return grouped


class History:
    """One session: its rows and its log."""

    def __init__(
        self,
        session: Any,
        runs: Sequence[Any],
        messages: Sequence[Any],
        events: Sequence[Any],
        steps: Sequence[Any] = (),
    ) -> None:
        self.session, self.runs, self.messages, self.rows = session, runs, messages, events
        self.steps = steps
        self.entries = [
            Entry(row["seq"], row["type"], row["run_id"], json.loads(row["data"]))
            for row in events
        ]
        self.found: list[Violation] = []

    def violations(self, *, ended: bool) -> list[Violation]:
        """Return all that is wrong in the session."""
        self._check_log()
        self._check_session()
        for row in self.runs:
            self._check_run(row, ended=ended)
        for row in self.messages:
            self._check_message(row)
        self._check_steps()
        known = {row["id"] for row in self.runs}
        for entry in self.entries:
            if entry.run_id is not None and entry.run_id not in known:
                self._say("run", entry.run_id, f"event {entry.seq} is of a run without a row")
        return self.found

    def _say(self, kind: str, where: str, why: str) -> None:
        self.found.append(Violation(kind, where, why))

    def _check_log(self) -> None:
        session, seqs = self.session, [entry.seq for entry in self.entries]
        pruned = session["pruned_seq"]
        wanted = range(1, session["last_seq"] + 1)
        if [seq for seq in seqs if seq > pruned] != [seq for seq in wanted if seq > pruned]:
            self._say("log", session["id"], f"{seqs} is not 1 to {session['last_seq']}")
        instants = [entry.data["at"] for entry in self.entries]
        if instants != sorted(instants):
            self._say("order", session["id"], "the clock goes backwards along the log")
        for entry in self.entries:
            head = (entry.data["seq"], entry.data["type"], entry.data["session_id"])
            if head != (entry.seq, entry.type, session["id"]):
                self._say("log", session["id"], f"event {entry.seq} says that it is {head}")
            owner = entry.data.get("run_id") or entry.data.get("run", {}).get("id")
            if owner is not None and owner != entry.run_id:
                self._say("log", session["id"], f"event {entry.seq} is of {owner}")

    def _check_steps(self) -> None:
        """Compare the rows of steps with what the log told last of each."""
        told = {
            entry.data["step"]["id"]: (entry.data["step"], entry.run_id)
            for entry in self.entries
            if entry.type == "run.step"
        }
        logged = {id_: step for id_, (step, _) in told.items() if step["status"] != "withdrawn"}
        stored = {row["id"]: json.loads(dump(step_of(row).body())) for row in self.steps}
        if logged != stored:
            self._say("run", self.session["id"], f"steps differ: {stored} {logged}")
        statuses = {row["id"]: row["status"] for row in self.runs}
        for id_, (step, run_id) in told.items():
            if step["status"] == "in_progress" and statuses.get(run_id or "") in TERMINAL:
                self._say("end", id_, "it goes on after its run's end")

    def _check_session(self) -> None:
        # With what its tools returned a run waits in the queue, and is the active one still.
        active = [
            row["id"]
            for row in self.runs
            if row["status"] in ACTIVE or (row["status"] == "queued" and row["started_at"])
        ]
        if len(active) > 1:
            self._say("session", self.session["id"], f"{len(active)} runs are active")
        if [self.session["active_run_id"]] != (active or [None]):
            self._say("session", self.session["id"], f"not the active run: {active}")

    def _check_run(self, row: Any, *, ended: bool) -> None:
        run_id, status = row["id"], row["status"]
        own = [entry for entry in self.entries if entry.run_id == run_id]
        changes = [entry for entry in own if "run" in entry.data]
        self._check_life(run_id, [entry.type.removeprefix("run.") for entry in changes])
        ends = [entry for entry in own if entry.type.removeprefix("run.") in TERMINAL]
        if len(ends) > 1 or (ends and own[-1] != ends[-1]):
            self._say("end", run_id, "events follow its end")
        if status in TERMINAL and not ends:
            self._say("end", run_id, f"it is {status}, and its log has no end")
        if ended and status not in TERMINAL:
            self._say("end", run_id, f"it is still {status}")
        if changes:
            self._compare_run(row, changes[-1])
        body = run_of(row).body()
        has_reason = body["last_error"] is not None or body["incomplete_details"] is not None
        if status in {"failed", "expired", "incomplete"} and not has_reason:
            self._say("end", run_id, f"it is {status}, and nobody says why")
        self._check_answers(row, own)

    def _check_life(self, run_id: str, statuses: Sequence[str]) -> None:
        if statuses[:1] != ["queued"]:
            self._say("run", run_id, f"begins as {statuses[:1]}")
        for before, after in pairwise(statuses):
            if after not in FOLLOWS.get(before, ()):
                self._say("run", run_id, f"{before} became {after}")

    def _check_answers(self, row: Any, own: Sequence[Entry]) -> None:
        run_id, status = row["id"], row["status"]
        answers = [m for m in self.messages if m["run_id"] == run_id and m["role"] == "assistant"]
        created = {
            entry.data["message"]["id"]
            for entry in own
            if entry.type == "message.created" and entry.data["message"]["role"] == "assistant"
        }
        if len(answers) > 1 or created != {m["id"] for m in answers}:
            self._say("answers", run_id, f"{len(answers)} rows, {len(created)} in the log")
        wanted = answers[0]["id"] if answers else None
        if status in TERMINAL and row["output_message_id"] != wanted:
            self._say("answers", run_id, "its row names another answer")
        if status == "completed" and [m["status"] for m in answers] != ["completed"]:
            self._say("answers", run_id, "it is completed, and its answer is not")

    def _compare_run(self, row: Any, last: Entry) -> None:
        logged, stored = dict(last.data["run"]), json.loads(json.dumps(run_of(row).body()))
        if stored["status"] not in TERMINAL:
            # Noted on the row between two events of the run.
            for name in ("attempts", "output_message_id"):
                logged.pop(name)
                stored.pop(name)
        if logged != stored:
            self._say("run", row["id"], f"row and event {last.seq} differ: {stored} {logged}")

    def _check_message(self, row: Any) -> None:
        message_id = row["id"]
        told = [e for e in self.entries if e.data.get("message", {}).get("id") == message_id]
        if [entry.type for entry in told[:1]] != ["message.created"] or len(told) > 2:
            self._say("message", message_id, f"told by {[entry.type for entry in told]}")
            return
        stored = json.loads(json.dumps(message_of(row).body()))
        if row["status"] != "in_progress" and told[-1].data["message"] != stored:
            self._say("message", message_id, f"row and event {told[-1].seq} differ")
        if row["role"] != "assistant" or row["run_id"] is None:
            # What was put into the conversation without a run was whole from the start.
            return
        grown = [e for e in self.entries if e.data.get("message_id") == message_id]
        first, last = told[0].seq, told[-1].seq
        if any(e.seq < first or (len(told) > 1 and e.seq > last) for e in grown):
            self._say("end", message_id, "it grows outside of its life")
        parts = shown(entry.data for entry in grown)
        texts = {i: part["text"] for i, part in enumerate(stored["content"]) if part["text"]}
        is_pruned = first <= self.session["pruned_seq"]
        if row["status"] != "in_progress" and not is_pruned and parts != texts:
            self._say("deltas", message_id, "they do not add up to its text")


def shown(bodies: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Return what a reader of one message's deltas and resets sees, by part."""
    parts: dict[int, str] = {}
    for data in bodies:
        if data["type"] == "message.reset":
            parts = {i: text for i, text in parts.items() if i < data["from_part"]}
        elif data["type"] == "message.delta":
            parts[data["part"]] = parts.get(data["part"], "") + data["text"]
    return {i: text for i, text in parts.items() if text}


async def check_reader(database_url: str, session_id: str, blocks: Sequence[Block]) -> None:
    """Fail unless a reader of a whole session was sent its log, byte for byte, from the start."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT seq, type, data FROM events WHERE session_id = $1 ORDER BY seq", session_id
        )
    finally:
        await connection.close()
    log = [(str(row["seq"]), row["type"], row["data"]) for row in rows]
    seen = [(block.id, block.event, block.data) for block in blocks]
    assert seen == log[: len(seen)]


def check_logs(logs: str, *words: str) -> None:
    """Fail when the processes' logs hold a traceback, the key, or a student's words."""
    assert "Traceback" not in logs, logs[-8000:]
    for word in (CANARY_KEY, *words):
        for written in (word, json.dumps(word).strip('"'), repr(word).strip("'")):
            assert written not in logs, f"{written!r} is in a log"
