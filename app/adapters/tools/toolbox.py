"""A registry of typed functions: their schemas come from their signatures.

A tool is an asynchronous function of a `ToolContext` and of arguments that the model writes.
Whatever goes wrong in it, the run goes on: the model reads of it in the output.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from app.domain.events import dump
from app.domain.models import JsonObject, ToolCall
from app.domain.text import clean
from app.ports import ToolContext

log = logging.getLogger(__name__)

MAX_RESULT_CHARS: Final = 16_000
MAX_ARGUMENTS_CHARS: Final = 16_000

Function = Callable[..., Awaitable[JsonObject]]


class ToolError(Exception):
    """A tool can't do what it was asked for; the model is told why, in these words."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function, and how the model is told of it."""

    name: str
    description: str
    arguments: type[BaseModel]
    function: Function

    @classmethod
    def of(cls, function: Function) -> "Tool":
        """Make a tool of a function: by its name, its docstring and its annotations.

        Its first parameter is the context; the others are the model's to give.
        """
        name: str = getattr(function, "__name__", "")
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
        fields: dict[str, Any] = {
            each.name: (
                each.annotation,
                ... if each.default is inspect.Parameter.empty else each.default,
            )
            for each in parameters
        }
        config = ConfigDict(extra="forbid", hide_input_in_errors=True)
        arguments = create_model(name, __config__=config, **fields)
        return cls(name, inspect.getdoc(function) or "", arguments, function)

    def body(self) -> JsonObject:
        """Return the tool as an assistant's, with its schema."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}


class Toolbox:
    """The tools of this server."""

    def __init__(self, functions: Sequence[Function], *, timeout_s: float) -> None:
        self._tools = {tool.name: tool for tool in map(Tool.of, functions)}
        self._timeout_s = timeout_s

    def complete(self, tools: Sequence[JsonObject]) -> list[JsonObject]:
        """Return an assistant's tools as the upstream is to be told of them."""
        return [self._completed(tool) for tool in tools]

    def names(self, tools: Sequence[JsonObject]) -> frozenset[str]:
        """Return which functions of an assistant the server calls itself."""
        return frozenset(known.name for tool in tools if (known := self._known(tool)) is not None)

    def _known(self, tool: JsonObject) -> Tool | None:
        """Return our tool that an assistant's tool names and leaves to be described.

        One that describes its parameters is the client's own, whatever it is called.
        """
        function: JsonObject = tool.get("function") or {}
        if function.get("parameters") is not None:
            return None
        return self._tools.get(function.get("name", ""))

    def _completed(self, tool: JsonObject) -> JsonObject:
        known = self._known(tool)
        if known is None:
            return tool
        told = known.body()
        told["function"]["description"] = tool["function"].get("description") or known.description
        return told

    async def call(self, call: ToolCall, context: ToolContext) -> str:
        """Call one; what goes wrong is told in the output, for the model to read."""
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._result(call, context)
        except TimeoutError:
            result = _failed("The tool took too long.")
        except ToolError as error:
            result = _failed(str(error))
        except Exception:
            log.exception("a tool failed", extra={"run_id": context.run_id, "tool": call.name})
            result = _failed("The tool failed.")
        text = clean(dump(result))
        if len(text) > MAX_RESULT_CHARS:
            return dump(_failed("The result is too long; ask for less."))
        return text

    async def _result(self, call: ToolCall, context: ToolContext) -> JsonObject:
        tool = self._tools[call.name]
        if len(call.arguments) > MAX_ARGUMENTS_CHARS:
            raise ToolError("The arguments are too long.")
        try:
            given = tool.arguments.model_validate_json(call.arguments or "{}")
        except ValidationError as error:
            raise ToolError(_complaint(error)) from None
        arguments = {name: getattr(given, name) for name in tool.arguments.model_fields}
        return await tool.function(context, **arguments)


def _failed(why: str) -> JsonObject:
    return {"error": why}


def _complaint(error: ValidationError) -> str:
    """Say what is wrong with arguments, without repeating them."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    places = (".".join(map(str, each["loc"])) or "arguments" for each in found[:5])
    said = "; ".join(
        f"{place}: {each['msg']}" for place, each in zip(places, found[:5], strict=True)
    )
    return f"The arguments are not valid: {said}."
