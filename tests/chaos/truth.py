"""What the database holds when all is over, in the words of the API, and the sandbox's ledger."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from app.adapters.postgres.rows import message_of, run_of, session_of


@dataclass
class Entry:
    """One event of the log."""

    seq: int
    type: str
    run: str | None
    data: str

    @cached_property
    def body(self) -> dict[str, Any]:
        """The data, parsed."""
        found: dict[str, Any] = json.loads(self.data)
        return found


@dataclass
class StoredRun:
    """A run, and what clients are not told of it."""

    session: str
    body: dict[str, Any]
    life_s: float | None
    """From its first claim to its end."""


@dataclass
class Truth:
    """The sessions that were not deleted; deleted ones have none, whether purged or not."""

    owners: dict[str, str] = field(default_factory=dict[str, str])
    """The user's own name, by the session's id."""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    log: dict[str, list[Entry]] = field(default_factory=dict[str, list[Entry]])
    runs: dict[str, StoredRun] = field(default_factory=dict[str, StoredRun])
    messages: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    posts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Requests for an answer, as the sandbox counted them: `text`, `status`, `refusal`."""


async def read_truth(connection: Any, posts: list[dict[str, Any]]) -> Truth:
    """Read one state of the database."""
    truth = Truth(posts=posts)
    alive = "SELECT s.*, u.subject FROM sessions s JOIN users u ON u.id = s.user_id"
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for row in await connection.fetch(f"{alive} WHERE s.deleted_at IS NULL"):
            truth.sessions[row["id"]] = _plain(session_of(row).body())
            truth.owners[row["id"]] = row["subject"]
            truth.log[row["id"]] = []
        for row in await connection.fetch("SELECT * FROM runs"):
            if row["session_id"] in truth.sessions:
                truth.runs[row["id"]] = StoredRun(
                    row["session_id"], _plain(run_of(row).body()), _life_s(row)
                )
        for row in await connection.fetch("SELECT * FROM messages ORDER BY seq"):
            if row["session_id"] in truth.sessions:
                truth.messages[row["id"]] = _plain(message_of(row).body())
        for row in await connection.fetch("SELECT * FROM events ORDER BY session_id, seq"):
            if row["session_id"] in truth.sessions:
                truth.log[row["session_id"]].append(
                    Entry(row["seq"], row["type"], row["run_id"], row["data"])
                )
    return truth


def _plain(body: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(body))
    return found


def _life_s(row: Any) -> float | None:
    if row["started_at"] is None or row["ended_at"] is None:
        return None
    life: float = (row["ended_at"] - row["started_at"]).total_seconds()
    return life
