"""The wire's objects, made from the public bodies that `/v1` shows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from starlette.responses import Response

from app.api import present
from app.domain.files import StoredFile
from app.domain.models import Assistant, AssistantConfig, JsonObject, Run, User
from app.ports import AssistantVersion
from app.services.assistants import may_read
from app.services.threads import Turn

POLL_AFTER_MS: Final = 500
"""How soon a poll is worth its while: the SDK's helpers wait this long."""

RATE_LIMITED: Final = frozenset({"upstream_rate_limited", "upstream_quota"})
_INVALID: Final = frozenset({
    "context_too_long", "upstream_format_refused", "upstream_rejected", "upstream_tool_refused",
})  # fmt: skip
_ENDED_AT: Final = {
    "completed": "completed_at",
    "failed": "failed_at",
    "cancelled": "cancelled_at",
    "expired": "expires_at",
}
_CUT_BY: Final = {
    "cancelled": "run_cancelled",
    "expired": "run_expired",
    "failed": "run_failed",
    "incomplete": "max_tokens",
}


def seconds(instant: str | None) -> int | None:
    """An instant as the wire has it."""
    return None if instant is None else int(datetime.fromisoformat(instant).timestamp())


def assistant(user: User, found: Assistant) -> JsonObject:
    """An assistant; its instructions and tools only for those who may read them."""
    body = found.body(with_instructions=may_read(user, found.owner_id))
    kept = ("id", "object", "name", "description", "model", "temperature", "top_p")
    return {
        **{name: body[name] for name in kept},
        "created_at": seconds(body["created_at"]),
        "instructions": body.get("instructions"),
        "tools": body.get("tools", []),
        "tool_resources": body.get("tool_resources", {}),
        "response_format": body["response_format"],
        "metadata": body["metadata"],
    }


def thread(session: Mapping[str, Any]) -> JsonObject:
    """A thread from a session's body."""
    return {
        "id": session["id"],
        "object": "thread",
        "created_at": seconds(session["created_at"]),
        "metadata": session["metadata"],
        "tool_resources": {},
    }


def message(body: Mapping[str, Any], run: Mapping[str, Any] | None) -> JsonObject:
    """A message from its body and that of the run that wrote it, if one did."""
    status, ended_at = body["status"], seconds(body["completed_at"])
    reason = None
    if status == "incomplete" and run is not None:
        is_filtered = _incomplete_reason(run) == "content_filter"
        reason = "content_filter" if is_filtered else _CUT_BY.get(run["status"])
    return {
        "id": body["id"],
        "object": "thread.message",
        "created_at": seconds(body["created_at"]),
        "thread_id": body["session_id"],
        "assistant_id": run and run["assistant_id"],
        "run_id": body["run_id"],
        "role": body["role"],
        "status": status,
        "content": [part(found) for found in body["content"] if found["type"] != "file"],
        # The wire has no part for what is no picture, but a place beside the parts.
        "attachments": [
            {"file_id": found["file_id"], "tools": []}
            for found in body["content"]
            if found["type"] == "file"
        ],
        "metadata": body["metadata"],
        "completed_at": ended_at if status == "completed" else None,
        "incomplete_at": ended_at if status == "incomplete" else None,
        "incomplete_details": reason and {"reason": reason},
    }


def part(body: Mapping[str, Any]) -> JsonObject:
    """A part of a message."""
    if body["type"] == "refusal":
        return {"type": "refusal", "refusal": body["text"]}
    if body["type"] == "image":
        return {
            "type": "image_file",
            "image_file": {"file_id": body["file_id"], "detail": "auto"},
        }
    notes = [_annotation(note) for note in body["annotations"]]
    text = {"value": body["text"], "annotations": [note for note in notes if note]}
    return {"type": "text", "text": text}


def _annotation(note: Mapping[str, Any]) -> JsonObject | None:
    """A citation; one of what the wire never knew (a page on the web) has no form there."""
    match note.get("type"):
        case "file_citation":
            name = "file_citation"
        case "file_path" | "container_file_citation":
            name = "file_path"
        case _:
            return None
    start = note.get("start_index", note.get("index", 0))
    return {
        "type": name,
        "text": note.get("text", ""),
        "start_index": start,
        "end_index": note.get("end_index", start),
        name: {"file_id": note.get("file_id", "")},
    }


def file(found: StoredFile) -> JsonObject:
    """A file; one that was sent over the other face is for what its kind is usually for."""
    body = found.body()
    return {
        "id": body["id"],
        "object": "file",
        "bytes": body["bytes"],
        "created_at": seconds(body["created_at"]),
        "expires_at": None,
        "filename": body["filename"],
        "purpose": found.purpose or ("vision" if found.is_image else "user_data"),
        "status": "processed",
        "status_details": None,
    }


def shape(user: User, version: AssistantVersion) -> AssistantConfig:
    """Return what a run's own configuration shows to the user."""
    config = version.config
    if may_read(user, version.owner_id):
        return config
    return AssistantConfig(
        name=config.name,
        description=config.description,
        instructions=None,
        model=config.model,
        temperature=config.temperature,
        top_p=config.top_p,
        response_format=config.response_format,
        max_output_tokens=config.max_output_tokens,
        tool_choice=config.tool_choice,
        parallel_tool_calls=config.parallel_tool_calls,
    )


def run(body: Mapping[str, Any], config: AssistantConfig) -> JsonObject:
    """A run from its body, and the configuration that it keeps."""
    error, action, status = body["last_error"], body["required_action"], body["status"]
    is_cut = _incomplete_reason(body) == "max_output_tokens"
    found: JsonObject = {
        "id": body["id"],
        "object": "thread.run",
        "created_at": seconds(body["created_at"]),
        "thread_id": body["session_id"],
        "assistant_id": body["assistant_id"],
        "status": status,
        "started_at": seconds(body["started_at"]),
        "expires_at": seconds(body["expires_at"]),
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": action
        and {
            "type": "submit_tool_outputs",
            "submit_tool_outputs": {"tool_calls": action["tool_calls"]},
        },
        "last_error": error and {"code": _error_code(error["code"]), "message": error["message"]},
        "incomplete_details": {"reason": "max_completion_tokens"} if is_cut else None,
        "model": body["model"],
        "instructions": config.instructions or "",
        "tools": list(config.tools),
        "tool_resources": {},
        "metadata": body["metadata"],
        "usage": usage_of(body["usage"]),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_prompt_tokens": None,
        "max_completion_tokens": config.max_output_tokens,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "response_format": config.response_format,
        "tool_choice": config.tool_choice or "auto",
        "parallel_tool_calls": config.parallel_tool_calls is not False,
    }
    if status in _ENDED_AT:
        found[_ENDED_AT[status]] = seconds(body["ended_at"])
    return found


def _incomplete_reason(run: Mapping[str, Any]) -> str | None:
    details: Mapping[str, str] | None = run["incomplete_details"]
    return None if details is None else details["reason"]


def _error_code(code: str) -> str:
    if code in RATE_LIMITED:
        return "rate_limit_exceeded"
    return "invalid_prompt" if code in _INVALID else "server_error"


def usage_of(usage: Mapping[str, int] | None) -> JsonObject | None:
    """Tokens in the wire's words."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }


def turn(found: Turn) -> JsonObject:
    """A message with what its run tells of it."""
    return message(found.message.body(), None if found.run is None else found.run.body())


def config_of(user: User, run: Run, versions: Mapping[tuple[str, int], Any]) -> AssistantConfig:
    """Return the configuration that a run keeps, as far as the user may see it."""
    return shape(user, versions[run.assistant_id, run.assistant_version])


def deleted(kind: str, item_id: str) -> Response:
    """Answer that something was deleted."""
    return present.body({"id": item_id, "object": f"{kind}.deleted", "deleted": True})


def page(items: Sequence[JsonObject], *, has_more: bool) -> Response:
    """Answer with a page of a list."""
    return present.listing(items, has_more=has_more)
