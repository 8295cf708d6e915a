"""Items of a response that are no messages, as steps: what the tutor did besides speaking."""

from typing import Any, Final

from app.domain.models import ToolCall
from app.domain.steps import FUNCTION, StepStatus, call_details
from app.domain.text import clean, clean_json
from app.ports import Step

ITEM_EVENTS: Final = {
    "response.output_item.added": StepStatus.IN_PROGRESS,
    "response.output_item.done": StepStatus.COMPLETED,
}
CODE_DONE: Final = "response.code_interpreter_call_code.done"
_CALL: Final = "_call"
_INTERPRETER: Final = "code_interpreter"


def step_of_event(type_: str, event: dict[str, Any]) -> Step | None:
    """Return the step that an item's beginning or end tells of, if it is no message.

    The dialect has more events between the two; the item's own account at its end holds it all.
    Code is told before it is run, which may take long.
    """
    if type_ == CODE_DONE:
        details = clean_json({"input": event["code"]})
        return Step(clean(event["item_id"]), _INTERPRETER, StepStatus.IN_PROGRESS, details)
    status = ITEM_EVENTS.get(type_) if type_.startswith("response.") else None
    if status is None:
        return None
    item: dict[str, Any] = event["item"]
    kind, name = item.get("type", ""), item.get("id")
    if kind == "function_call":
        # It goes on until somebody has called it.
        return Step(clean(item["call_id"]), FUNCTION, StepStatus.IN_PROGRESS, _calls(item))
    if not kind.endswith(_CALL) or not name:
        return None
    if status is StepStatus.COMPLETED and item.get("status") in {"failed", "incomplete"}:
        status = StepStatus.FAILED
    kind = clean(kind.removesuffix(_CALL))
    return Step(clean(name), kind, status, clean_json(_details(kind, item)))


def _details(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of an item so far, in the form that `RunStep` documents."""
    match kind:
        case "code_interpreter":
            found = {"input": item.get("code") or None, "outputs": _outputs(item.get("outputs"))}
        case "file_search":
            results = item.get("results")
            found = {
                "queries": item.get("queries") or None,
                "results": None if results is None else [_result(each) for each in results],
            }
        case _:
            found = {}
    return {name: value for name, value in found.items() if value is not None}


def _outputs(found: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Return what code put out. A picture's address is the vendor's, and may be all its bytes."""
    if found is None:
        return None
    return [
        {"type": "logs", "logs": each.get("logs") or ""}
        if each.get("type") == "logs"
        else {"type": clean(each.get("type") or "unknown")}
        for each in found
    ]


def _result(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "file_id": found.get("file_id") or "",
        "file_name": found.get("filename") or "",
        "score": found.get("score") or 0.0,
        "text": found.get("text") or "",
    }


def _calls(item: dict[str, Any]) -> dict[str, Any]:
    name, arguments = clean(item["name"]), clean(item.get("arguments") or "")
    return call_details([ToolCall(clean(item["call_id"]), name, arguments)])
