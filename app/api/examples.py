"""Whole bodies, for the OpenAPI documents."""

from typing import Any, Final

Example = dict[str, Any]

_AT: Final = "2026-11-24T08:00:00.000000Z"
_LATER: Final = "2026-11-24T08:00:02.500000Z"
_SESSION: Final = "sess_8a1f0c63d29b47e5a0c3d1f2"
_RUN: Final = "run_41c7e2a9b85d4f06913ae7d0"
_QUESTION: Final = "msg_b7d91e3f5a2c4806de41f09a"
_FILE: Final = "file_3c1fd8a0b67e4952ae08c7d1"
_ANSWER: Final = "msg_0e52c8a7461bd93f7e20a6c5"

ASSISTANT_CREATE: Final[Example] = {
    "name": "Math Tutor",
    "instructions": "You are a personal math tutor. Answer briefly.",
    "model": "gpt-5.4-mini",
}
ASSISTANT: Final[Example] = {
    "id": "asst_default",
    "object": "assistant",
    "name": "Math Tutor",
    "description": "A personal math tutor.",
    "model": "gpt-5.4-mini",
    "temperature": 1.0,
    "top_p": 1.0,
    "response_format": "auto",
    "metadata": {},
    "version": 1,
    "created_at": _AT,
    "updated_at": _AT,
}
TOOL_OUTPUTS: Final[Example] = {
    "tool_outputs": [{"tool_call_id": "call_7c1e", "output": "The graph was drawn."}]
}
SESSION_CREATE: Final[Example] = {"title": "Quadratic equations", "metadata": {"class": "9b"}}
SESSION: Final[Example] = {
    "id": _SESSION,
    "object": "session",
    "assistant_id": "asst_default",
    "title": "Quadratic equations",
    "status": "open",
    "metadata": {"class": "9b"},
    "active_run_id": None,
    "last_seq": 0,
    "created_at": _AT,
    "updated_at": _AT,
}
MESSAGE_CREATE: Final[Example] = {"content": "Please solve `3x**2 + 11x - 10 = 0`."}
PICTURE_CREATE: Final[Example] = {
    "content": [
        {"type": "text", "text": "Is my second step right?"},
        {"type": "image", "file_id": _FILE},
    ],
    "on_active_run": "enqueue",
}
FILE: Final[Example] = {
    "id": _FILE,
    "object": "file",
    "filename": "homework.png",
    "bytes": 183204,
    "media_type": "image/png",
    "created_at": _AT,
}
MESSAGE: Final[Example] = {
    "id": _QUESTION,
    "object": "message",
    "session_id": _SESSION,
    "run_id": None,
    "role": "user",
    "status": "completed",
    "content": [
        {"type": "text", "text": "Please solve `3x**2 + 11x - 10 = 0`.", "annotations": []}
    ],
    "metadata": {},
    "seq": 1,
    "created_at": _AT,
    "completed_at": _AT,
}
RUN: Final[Example] = {
    "id": _RUN,
    "object": "run",
    "session_id": _SESSION,
    "assistant_id": "asst_default",
    "model": "gpt-5.4-mini",
    "status": "completed",
    "attempts": 1,
    "input_message_id": _QUESTION,
    "output_message_id": _ANSWER,
    "required_action": None,
    "last_error": None,
    "incomplete_details": None,
    "usage": {"input_tokens": 42, "output_tokens": 61, "total_tokens": 103},
    "metadata": {},
    "seq": 2,
    "created_at": _AT,
    "started_at": _AT,
    "expires_at": None,
    "ended_at": _LATER,
}
RUN_QUEUED: Final[Example] = {
    **RUN,
    "status": "queued",
    "attempts": 0,
    "output_message_id": None,
    "usage": None,
    "started_at": None,
    "ended_at": None,
}
USER: Final[Example] = {
    "id": "user_2f6b8d10c4e7a935",
    "object": "user",
    "subject": "alice",
    "tenant": None,
    "scopes": [],
    "limits": {
        "message_chars": 32000,
        "queued_runs_per_session": 10,
        "queued_runs": 20,
        "streams": 20,
        "tool_output_chars": 200000,
        "file_bytes": 33554432,
        "files": 200,
        "files_bytes": 1073741824,
    },
    "remaining": {
        "queued_runs": 20,
        "streams": 20,
        "files": 199,
        "files_bytes": 1073558620,
    },
}
TICKET: Final[Example] = {
    "ticket": "Yf3sO1mWc0nA6d…",
    "expires_at": "2026-11-24T08:01:00.000000Z",
}
EVENTS: Final = (
    "retry: 1873\n\n"
    "id: 5\nevent: message.delta\n"
    f'data: {{"type":"message.delta","session_id":"{_SESSION}","seq":5,"at":"{_LATER}",'
    f'"message_id":"{_ANSWER}","run_id":"{_RUN}","part":0,"text":"x = "}}\n\n'
    f'event: done\ndata: {{"type":"done","session_id":"{_SESSION}","seq":9,"at":"{_LATER}"}}\n\n'
)


def listing(item: Example) -> Example:
    """Return a page that holds one item, the last."""
    return {
        "object": "list",
        "data": [item],
        "first_id": item["id"],
        "last_id": item["id"],
        "has_more": False,
    }
