"""What is sent of tools and forms, in the published dialect's form."""

from typing import Any

import pytest

from app.adapters.responses.request import create
from app.domain.models import AssistantConfig
from app.ports import Generation, Resources

KNOWN = Resources({"file_1": "file-up1", "file_2": "file-up2", "vs_1": "vs_up1"})
FILES = {"code_interpreter": {"file_ids": ["file_1", "file_gone", "file_2"]}}
STORES = {"file_search": {"vector_store_ids": ["vs_1"]}}


def sent(**fields: Any) -> dict[str, Any]:
    config = AssistantConfig(None, None, None, "m", **fields)
    return create(Generation("conv_1", [], "m", config, "safe", resources=KNOWN), background=False)


@pytest.mark.parametrize(
    ("tool", "resources", "asked", "include"),
    [
        (
            {"type": "code_interpreter"},
            {},
            {"type": "code_interpreter", "container": {"type": "auto"}},
            "code_interpreter_call.outputs",
        ),
        (
            {"type": "code_interpreter"},
            FILES,
            {
                "type": "code_interpreter",
                "container": {"type": "auto", "file_ids": ["file-up1", "file-up2"]},
            },
            "code_interpreter_call.outputs",
        ),
        (
            {"type": "file_search", "file_search": None},
            STORES,
            {"type": "file_search", "vector_store_ids": ["vs_up1"]},
            "file_search_call.results",
        ),
        (
            {
                "type": "file_search",
                "file_search": {
                    "max_num_results": 7,
                    "ranking_options": {"ranker": "default_2024_08_21", "score_threshold": 0.5},
                },
            },
            STORES,
            {
                "type": "file_search",
                "vector_store_ids": ["vs_up1"],
                "max_num_results": 7,
                "ranking_options": {"score_threshold": 0.5},
            },
            "file_search_call.results",
        ),
    ],
)
def test_tools_are_told_what_they_work_on(
    tool: dict[str, Any], resources: dict[str, Any], asked: dict[str, Any], include: str
) -> None:
    body = sent(tools=[tool], tool_resources=resources)
    assert (body["tools"], body["include"]) == ([asked], [include])


@pytest.mark.parametrize("resources", [{}, {"file_search": {"vector_store_ids": ["vs_gone"]}}])
def test_a_search_of_nothing_is_left_out(resources: dict[str, Any]) -> None:
    body = sent(tools=[{"type": "file_search"}], tool_resources=resources)
    assert not {"tools", "include"} & body.keys()


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            {"type": "json_schema", "name": "x", "schema": {"type": "object"}},
        ),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
            },
            {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True},
        ),
    ],
)
def test_a_form_is_flat(wanted: Any, form: dict[str, Any]) -> None:
    assert sent(response_format=wanted)["text"] == {"format": form}


def test_the_usual_form_is_not_named() -> None:
    assert not {"text", "include", "tools"} & sent().keys()
