"""Rows to domain values, and back."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Select, SQLColumnExpression, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidRequestError, NotFoundError
from app.domain.models import (
    Assistant,
    AssistantConfig,
    Failure,
    JsonObject,
    Message,
    MessageStatus,
    Part,
    Role,
    Run,
    RunStatus,
    SessionStatus,
    ToolCall,
    TutoringSession,
    Usage,
)
from app.domain.steps import RunStep, StepStatus
from app.domain.text import rfc3339
from app.ports import Page, PageQuery

T = TypeVar("T")


class AnyRow(Protocol):
    """A row of SQLAlchemy's, as a mapping, or of the driver's."""

    def __getitem__(self, column: str, /) -> Any:
        """Return a column."""
        ...


AnySelect = Select[*tuple[Any, ...]]


def _json(value: Any) -> Any:
    """Read a JSONB column: Core has parsed it already, the driver gives its text."""
    return json.loads(value) if isinstance(value, str) else value


def _instant(value: datetime | None) -> str | None:
    return None if value is None else rfc3339(value)


def session_of(row: AnyRow) -> TutoringSession:
    """A session from its row."""
    return TutoringSession(
        id=row["id"],
        user_id=row["user_id"],
        assistant_id=row["assistant_id"],
        title=row["title"],
        status=SessionStatus(row["status"]),
        metadata=_json(row["meta"]),
        active_run_id=row["active_run_id"],
        last_seq=row["last_seq"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def message_of(row: AnyRow) -> Message:
    """A message from its row."""
    return Message(
        id=row["id"],
        session_id=row["session_id"],
        run_id=row["run_id"],
        role=Role(row["role"]),
        status=MessageStatus(row["status"]),
        content=tuple(Part.from_body(body) for body in _json(row["content"])),
        metadata=_json(row["meta"]),
        seq=row["seq"],
        turn=row["turn"],
        created_at=row["created_at"],
        completed_at=row["completed_at"],
    )


def message_values(message: Message) -> dict[str, Any]:
    """A message's row."""
    return {
        "id": message.id,
        "session_id": message.session_id,
        "run_id": message.run_id,
        "role": message.role,
        "status": message.status,
        "content": [part.body() for part in message.content],
        "meta": message.metadata,
        "seq": message.seq,
        "turn": message.turn,
        "created_at": _instant(message.created_at),
        "completed_at": _instant(message.completed_at),
    }


def run_of(row: AnyRow) -> Run:
    """A run from its row."""
    error, usage = _json(row["last_error"]), _json(row["usage"])
    return Run(
        id=row["id"],
        session_id=row["session_id"],
        assistant_id=row["assistant_id"],
        assistant_version=row["assistant_version"],
        model=row["model"],
        status=RunStatus(row["status"]),
        attempts=row["attempts"],
        input_message_id=row["input_message_id"],
        output_message_id=row["output_message_id"],
        metadata=_json(row["meta"]),
        tool_calls=tuple(ToolCall(**call) for call in _json(row["tool_calls"]) or ()),
        last_error=error and Failure(**error),
        incomplete_reason=row["incomplete_reason"],
        usage=usage and Usage(**usage),
        seq=row["seq"],
        turn=row["turn"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )


def run_values(run: Run) -> dict[str, Any]:
    """A run's row, without the columns that are the queue's own."""
    error = run.last_error
    return {
        "id": run.id,
        "session_id": run.session_id,
        "assistant_id": run.assistant_id,
        "assistant_version": run.assistant_version,
        "model": run.model,
        "status": run.status,
        "attempts": run.attempts,
        "input_message_id": run.input_message_id,
        "output_message_id": run.output_message_id,
        "tool_calls": [_call_values(call) for call in run.tool_calls] or None,
        "last_error": error and {"code": error.code, "message": error.message},
        "incomplete_reason": run.incomplete_reason,
        "usage": run.usage and run.usage.body(),
        "meta": run.metadata,
        "seq": run.seq,
        "turn": run.turn,
        "created_at": _instant(run.created_at),
        "started_at": _instant(run.started_at),
        "expires_at": _instant(run.expires_at),
        "ended_at": _instant(run.ended_at),
    }


def _call_values(call: ToolCall) -> dict[str, str]:
    """A call that waits for its client; what others returned is kept with the run's step."""
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def step_of(row: AnyRow) -> RunStep:
    """A run's step from its row."""
    return RunStep(
        id=row["id"],
        session_id=row["session_id"],
        run_id=row["run_id"],
        kind=row["kind"],
        status=StepStatus(row["status"]),
        details=_json(row["details"]),
        key=row["key"],
        response_id=row["response_id"],
        said=tuple(Part.from_body(body) for body in _json(row["said"])),
        seq=row["seq"],
        begun_at=row["begun_at"],
        ended_at=row["ended_at"],
    )


def step_values(step: RunStep) -> dict[str, Any]:
    """A step's row."""
    return {
        "id": step.id,
        "session_id": step.session_id,
        "run_id": step.run_id,
        "kind": step.kind,
        "status": step.status,
        "details": step.details,
        "key": step.key,
        "response_id": step.response_id,
        "said": [part.body() for part in step.said],
        "seq": step.seq,
        "begun_at": _instant(step.begun_at),
        "ended_at": _instant(step.ended_at),
    }


def assistant_of(row: AnyRow) -> Assistant:
    """An assistant from its row joined with its version's."""
    return Assistant(
        id=row["id"],
        tenant=row["tenant"],
        owner_id=row["owner_id"],
        is_default=row["is_default"],
        config=config_of(_json(row["config"])),
        metadata=_json(row["meta"]),
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def config_of(config: JsonObject) -> AssistantConfig:
    """A configuration from its JSON."""
    return AssistantConfig(**config)


def config_values(config: AssistantConfig) -> JsonObject:
    """A configuration's JSON."""
    values = dataclasses.asdict(config)
    for name in ("max_output_tokens", "tool_choice", "parallel_tool_calls"):
        # Workers of an earlier release can't read a field that they don't know.
        if values[name] is None:
            del values[name]
    return values


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that can be read in pages: its rows, its order, and what they become."""

    query: AnySelect
    key: Sequence[SQLColumnExpression[Any]]
    item_id: SQLColumnExpression[str]
    make: Callable[[AnyRow], T]


async def page_of(connection: AsyncConnection, listing: Listing[T], page: PageQuery) -> Page[T]:
    """Read one page by keyset.

    `before` reads backwards from its item and returns the page in the order asked for.

    Raises:
        InvalidRequestError: Both cursors are given.
        NotFoundError: The cursor names no item of the list.
    """
    if page.after is not None and page.before is not None:
        raise InvalidRequestError("Give `after` or `before`, not both.")
    backwards = page.before is not None
    descending = page.descending is not backwards
    cursor = page.before if backwards else page.after
    query, key = listing.query, listing.key
    if cursor is not None:
        named = query.with_only_columns(*key).where(listing.item_id == cursor)
        place = (await connection.execute(named)).first()
        if place is None:
            raise NotFoundError("The cursor names no item of this list.")
        left, right = tuple_(*key), tuple_(*place)
        query = query.where(left < right if descending else left > right)
    ordered = [column.desc() if descending else column.asc() for column in key]
    found = await connection.execute(query.order_by(*ordered).limit(page.limit + 1))
    rows = found.mappings().all()
    items = [listing.make(row) for row in rows[: page.limit]]
    if backwards:
        items.reverse()
    return Page(items, has_more=len(rows) > page.limit)
