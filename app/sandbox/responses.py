"""The Responses endpoints."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.attachments import require_files
from app.sandbox.context import Context, context_of
from app.sandbox.conversations import require_unlocked
from app.sandbox.errors import ApiError, invalid
from app.sandbox.faults import ending_of
from app.sandbox.formats import require_word
from app.sandbox.generation import Generation, Job
from app.sandbox.hosted import check_tool
from app.sandbox.ids import new_id
from app.sandbox.items import Item, require_new, require_paired, text_of
from app.sandbox.jsonio import json_response, read_object
from app.sandbox.pages import page
from app.sandbox.planning import make_plan
from app.sandbox.request import CreateRequest, read_create
from app.sandbox.state import Conversation, StoredResponse
from app.sandbox.streams import EventStream, follow
from app.sandbox.wire import count_tokens, without_padding


async def create(request: Request) -> Response:
    """Generate a response: in the foreground or background, streamed or whole."""
    context = context_of(request)
    state = context.state
    wanted = read_create(await read_object(request, context.config.max_body_bytes))
    # no await from here until the lock is taken: two creates cannot both pass
    response = _admit(context, wanted)
    state.responses[response.id] = response
    state.generations += 1
    generation = Generation(
        Job(
            response=response,
            plan=lambda: make_plan(
                context.tutor,
                context.calculator,
                [*response.history, *response.input_items],
                wanted,
                state,
            ),
            tokens_per_second=context.pace.of("\n".join(map(text_of, response.input_items))),
            max_output_tokens=wanted.max_output_tokens,
            obfuscate=wanted.obfuscate,
            include=wanted.include,
            ending=ending_of(request.scope),
            on_completed=state.count_completed,
        )
    )
    if wanted.background:
        response.usage = generation.usage
        response.task = asyncio.create_task(_record(response, generation))
        if wanted.stream:
            return EventStream(follow(response, -1), state=state)
        return json_response(response.body)
    if wanted.stream:
        return EventStream(
            _live(response, generation), state=state, on_close=lambda: _left(context, response)
        )
    # as observed upstream: a client that gives up waiting does not stop a plain request
    response.task = asyncio.create_task(_record(response, generation))
    with suppress(asyncio.CancelledError):
        await asyncio.shield(response.task)
    if not response.done or response.body["status"] == "in_progress":
        raise ApiError(500, "The server is restarting.", kind="server_error")
    if not wanted.store:
        state.responses.pop(response.id, None)
    return json_response(response.body)


def _admit(context: Context, wanted: CreateRequest) -> StoredResponse:
    state = context.state
    conversation: Conversation | None = None
    history: list[Item] = []
    if wanted.conversation_id is not None:
        conversation = state.conversation(wanted.conversation_id)
        require_unlocked(conversation)
        history = list(conversation.items.values())
    elif wanted.previous_response_id is not None:
        previous = state.previous(wanted.previous_response_id)
        history = [*previous.history, *previous.input_items, *previous.body["output"]]
    require_new(history, wanted.input_items)
    require_paired(history, wanted.input_items)
    require_files(state, [*history, *wanted.input_items])
    texts = [text_of(item) for item in [*history, *wanted.input_items]]
    require_word(wanted.format, [wanted.instructions or "", *texts])
    for index, tool in enumerate(wanted.tools):
        check_tool(state, tool, wanted.model, f"tools[{index}]")
    response = StoredResponse(
        body=_body(wanted, conversation),
        input_items=wanted.input_items,
        history=history,
        conversation=conversation,
        streamed=wanted.stream,
        stored=wanted.store or wanted.background,
    )
    if conversation is not None:
        conversation.running_response_id = response.id
    return response


def _body(wanted: CreateRequest, conversation: Conversation | None) -> dict[str, Any]:
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": time.time(),
        "status": "queued" if wanted.background else "in_progress",
        "background": wanted.background,
        "completed_at": None,
        "conversation": {"id": conversation.id} if conversation is not None else None,
        "error": None,
        "incomplete_details": None,
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "metadata": wanted.metadata,
        "model": wanted.model,
        "output": [],
        "parallel_tool_calls": wanted.parallel_tool_calls,
        "previous_response_id": wanted.previous_response_id,
        "store": wanted.store,
        "tool_choice": wanted.tool_choice,
        "tools": wanted.tools,
        "usage": None,
        **wanted.echo,
    }


async def _record(response: StoredResponse, generation: Generation) -> None:
    """Generate without a reader; whoever follows reads the recorded events."""
    try:
        async for event in generation.events():
            if response.streamed:
                response.events.append(event)
                response.wake()
    finally:
        response.close()


async def _live(response: StoredResponse, generation: Generation) -> AsyncIterator[bytes]:
    """Generate for one reader, nothing recorded; ends early if the sandbox is reset."""
    async for event in generation.events():
        if response.done and response.body["status"] == "in_progress":
            return
        yield event


def _left(context: Context, response: StoredResponse) -> None:
    """The reader of a foreground stream is gone: unless it was finished, it never was."""
    if not response.done:
        context.state.responses.pop(response.id, None)
        response.close()
    elif not response.stored:
        context.state.responses.pop(response.id, None)


async def retrieve(request: Request) -> Response:
    """Read a response, or stream it again from a sequence number."""
    context = context_of(request)
    response = context.state.response(request.path_params["response_id"])
    if request.query_params.get("stream", "").lower() not in {"true", "1"}:
        return json_response(response.body)
    _require_resumable(response, context.config.resume_window_s)
    events = follow(response, _starting_after(request.query_params))
    if request.query_params.get("include_obfuscation", "").lower() in {"false", "0"}:
        events = without_padding(events)
    return EventStream(events, state=context.state)


def _require_resumable(response: StoredResponse, window_s: float) -> None:
    reason = None
    if not response.background:
        reason = "cannot be streamed because it was not created with background=true."
    elif not response.streamed:
        reason = "cannot be streamed because it was not created with stream=true."
    elif time.monotonic() - response.created > window_s:
        reason = "can no longer be streamed because it is more than 5 minutes old."
    if reason is not None:
        raise ApiError(400, f"This response {reason}", param="stream")


def _starting_after(query: QueryParams) -> int:
    value = query.get("starting_after")
    if value is None:
        return -1
    if not value.isascii() or not value.isdigit():
        raise invalid("starting_after", "a sequence number")
    return int(value[:9])


async def delete(request: Request) -> Response:
    """Delete a response; one that still runs is stopped."""
    state = context_of(request).state
    response = state.response(request.path_params["response_id"])
    del state.responses[response.id]
    if response.task is not None:
        response.task.cancel()
    response.close()
    return json_response({"id": response.id, "object": "response", "deleted": True})


async def cancel(request: Request) -> Response:
    """Cancel a background response; again, or too late, is answered with its end."""
    response = context_of(request).state.response(request.path_params["response_id"])
    if not response.background:
        raise ApiError(400, "Cannot cancel a synchronous response.")
    if not response.done:
        response.body["status"] = "cancelled"
        response.body["output"] = []
        if response.usage is not None:
            response.body["usage"] = response.usage()
        if response.task is not None:
            response.task.cancel()
        response.close()
    return json_response(response.body)


async def input_items(request: Request) -> Response:
    """List what a response was given."""
    response = context_of(request).state.response(request.path_params["response_id"])
    return json_response(page([*response.history, *response.input_items], request.query_params))


async def input_tokens(request: Request) -> Response:
    """Count the tokens of an input."""
    body = await read_object(request, context_of(request).config.max_body_bytes)
    wanted = read_create({"model": "any", **body})
    count = sum(count_tokens(text_of(item)) + 4 for item in wanted.input_items)
    count += count_tokens(wanted.instructions or "")
    return json_response({"object": "response.input_tokens", "input_tokens": count})


ROUTES = [
    Route("/v1/responses", create, methods=["POST"]),
    Route("/v1/responses/input_tokens", input_tokens, methods=["POST"]),
    Route("/v1/responses/{response_id}", retrieve, methods=["GET"]),
    Route("/v1/responses/{response_id}", delete, methods=["DELETE"]),
    Route("/v1/responses/{response_id}/cancel", cancel, methods=["POST"]),
    Route("/v1/responses/{response_id}/input_items", input_items, methods=["GET"]),
]
