"""Tools that the upstream runs itself: code of one line, and a search for exact words.

Nothing is ever executed: what the code would print is computed by `app.algebra`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from app.algebra import Evaluation
from app.sandbox.errors import ApiError, file_not_found, invalid, missing
from app.sandbox.generation import RunCode, Search
from app.sandbox.ids import new_id
from app.sandbox.jsonio import is_array, is_object
from app.sandbox.state import State
from app.sandbox.stores import Passage, read_search, search

HOSTED: Final = frozenset({"code_interpreter", "file_search"})
WITHOUT_TOOLS: Final = frozenset({"offline-tutor"})
"""Models that have no tools of the upstream's own."""
MAX_CONTAINER_FILES: Final = 50
INCLUDABLE: Final = frozenset({
    "code_interpreter_call.outputs", "computer_call_output.output.image_url",
    "file_search_call.results", "message.input_image.image_url", "message.output_text.logprobs",
    "reasoning.encrypted_content", "web_search_call.action.sources", "web_search_call.results",
})  # fmt: skip
_PYTHON: Final = re.compile(r"[0-9+\-*/(). ]{1,500}")
_ROOT: Final = re.compile("\u221a(\\d+)")
_JOINED: Final = re.compile(r"([\d)])(?=[(a-z])")
"""Where a product is written without a sign."""
_SIGNS: Final = str.maketrans("\u00d7\u00b7\u00f7\u2212", "**/-")
"""Signs of multiplication, division and subtraction that Python does not know."""


class Calculator(Protocol):
    """Whoever knows what arithmetic comes to."""

    async def calculate(self, turns: Sequence[tuple[str, str]]) -> Sequence[Evaluation]:
        """Return the numbers that the last turn asks for; none if it asks for anything else."""
        ...


def check_tool(state: State, tool: Mapping[str, Any], model: str, param: str) -> None:
    """Refuse a tool that the model does not have, or that lacks what it works on.

    Raises:
        ApiError: 400, or 404 for files and stores that are not there.
    """
    if tool["type"] in HOSTED and model in WITHOUT_TOOLS:
        raise ApiError(
            400, f"Hosted tool '{tool['type']}' is not supported with {model}.", param="tools"
        )
    if tool["type"] == "code_interpreter":
        _check_container(state, tool.get("container"), f"{param}.container")
    elif tool["type"] == "file_search":
        store_ids = tool.get("vector_store_ids")
        if not is_array(store_ids) or not store_ids:
            raise missing(f"{param}.vector_store_ids")
        for store_id in store_ids:
            state.store(str(store_id))
        read_search({**tool}, param)


def _check_container(state: State, container: object, param: str) -> None:
    if container is None:
        raise missing(param)
    if not is_object(container):
        return
    if container.get("type") != "auto":
        raise invalid(f"{param}.type", "auto")
    file_ids = container.get("file_ids")
    if file_ids is None:
        return
    if not is_array(file_ids) or len(file_ids) > MAX_CONTAINER_FILES:
        raise invalid(f"{param}.file_ids", f"at most {MAX_CONTAINER_FILES} ids")
    known = {file.id for file in state.living_files()}
    for file_id in file_ids:
        if file_id not in known:
            raise file_not_found(str(file_id))


def read_include(value: object) -> frozenset[str]:
    """Return what a client wants to be told besides.

    Raises:
        ApiError: There is no such thing.
    """
    if value is None:
        return frozenset()
    if not is_array(value):
        raise invalid("include", "an array")
    for each in value:
        if each not in INCLUDABLE:
            raise ApiError(
                400,
                f"Invalid value: '{each}'. Supported values are: {sorted(INCLUDABLE)}.",
                param="include",
                code="invalid_value",
            )
    return frozenset(map(str, value))


async def run_code(calculator: Calculator, turns: Sequence[tuple[str, str]]) -> list[RunCode]:
    """Write a line of Python for the numbers that are asked for, with what it prints."""
    found = await calculator.calculate(turns)
    if not found:
        return []
    container_id = new_id("cntr")
    return [RunCode(_code(each), f"{_python(each.value.plain)}\n", container_id) for each in found]


def _code(found: Evaluation) -> str:
    source = _python(found.source.plain)
    if _PYTHON.fullmatch(source) and found.value.is_exact_decimal and "/" not in source:
        return f"print({source})"
    # Python's own division would lose what is exact here.
    return f'import sympy\nprint(sympy.sympify("{source}"))'


def _python(plain: str) -> str:
    """Write a student's expression as Python does."""
    text = _ROOT.sub(r"sqrt(\1)", plain.replace("^", "**").translate(_SIGNS))
    return _JOINED.sub(r"\1*", text.replace("\u221a", "sqrt"))


def find_passages(
    state: State, text: str, tools: Sequence[Mapping[str, Any]]
) -> tuple[list[Search], Sequence[Passage]]:
    """Search the stores of a request's tool for what was asked; nothing without such a tool."""
    tool = next((each for each in tools if each["type"] == "file_search"), None)
    if tool is None or not text.strip():
        return [], ()
    stores = [state.store(str(store_id)) for store_id in tool["vector_store_ids"]]
    found = search(stores, text, tool)
    return [Search([text.strip()[:200]], [passage.body() for passage in found])], found


def quote(passage: Passage, lead: str, rest: str) -> tuple[str, list[dict[str, Any]]]:
    """Say what a file says, and cite it behind the quotation."""
    lines = "\n".join(f"> {line}" for line in passage.text.splitlines())
    said = f"{lead.format(filename=passage.filename)}\n\n{lines}"
    note = {
        "type": "file_citation",
        "index": len(said),
        "file_id": passage.file_id,
        "filename": passage.filename,
    }
    return f"{said}\n\n{rest}" if rest else said, [note]
