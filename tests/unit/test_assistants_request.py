"""What a server of threads is told of files, in messages and in tools."""

from typing import Any

import pytest

from app.adapters.assistants import request
from app.domain.models import AssistantConfig, Role
from app.ports import Attached, Generation, Resources, Turn

PICTURE = Attached("file-up1", is_image=True)
TEXT = Attached("file-up2", is_image=False)
SHOWN = {"type": "image_file", "image_file": {"file_id": "file-up1"}}
SEARCHED = {"file_id": "file-up2", "tools": [{"type": "file_search"}]}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("parts", "content", "attachments"),
    [
        (["Look:", PICTURE], [said("Look:"), SHOWN], None),
        (["Read:", TEXT], [said("Read:")], [SEARCHED]),
        ([TEXT, "", TEXT], [said(request.ATTACHED)], [SEARCHED, SEARCHED]),
    ],
    ids=["a picture", "a file and words", "files alone"],
)
def test_files_in_a_message_are_parts_or_attachments(
    parts: list[str | Attached], content: Any, attachments: Any
) -> None:
    found = request.message(Turn(Role.USER, parts))
    assert found["content"] == content
    assert found.get("attachments") == attachments


def test_tools_work_on_the_upstreams_files_and_not_on_what_was_deleted() -> None:
    config = AssistantConfig(
        None,
        None,
        None,
        "m",
        tools=[{"type": "code_interpreter"}, {"type": "file_search"}],
        tool_resources={
            "code_interpreter": {"file_ids": ["file_1", "file_gone"]},
            "file_search": {"vector_store_ids": ["vs_gone"]},
        },
    )
    known = Resources({"file_1": "file-up1"})
    body = request.assistant(Generation("thread_1", [], "m", config, "safe", resources=known))
    assert body["tool_resources"] == {"code_interpreter": {"file_ids": ["file-up1"]}}
    assert body["tools"] == list(config.tools)
