"""The Conversations endpoints."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.attachments import require_files
from app.sandbox.context import context_of
from app.sandbox.errors import ApiError, missing
from app.sandbox.items import Item, read_items, require_new
from app.sandbox.jsonio import json_response, read_metadata, read_object
from app.sandbox.pages import page
from app.sandbox.state import Conversation


async def create(request: Request) -> Response:
    """Open a conversation with at most 20 items."""
    context = context_of(request)
    body = await read_object(request, context.config.max_body_bytes, optional=True)
    items = read_items(body, required=False)
    require_new([], items)
    require_files(context.state, items)
    return json_response(context.state.new_conversation(read_metadata(body), items).body())


async def retrieve(request: Request) -> Response:
    """Read a conversation."""
    return json_response(_conversation(request).body())


async def update(request: Request) -> Response:
    """Replace a conversation's metadata."""
    conversation = _conversation(request)
    body = await read_object(request, context_of(request).config.max_body_bytes)
    if "metadata" not in body:
        raise missing("metadata")
    conversation.metadata = read_metadata(body)
    return json_response(conversation.body())


async def delete(request: Request) -> Response:
    """Delete a conversation; its items are kept."""
    conversation = _conversation(request)
    context_of(request).state.delete_conversation(conversation.id)
    return json_response(
        {"id": conversation.id, "object": "conversation.deleted", "deleted": True}
    )


async def create_items(request: Request) -> Response:
    """Append at most 20 items."""
    conversation = _conversation(request)
    body = await read_object(request, context_of(request).config.max_body_bytes)
    items = read_items(body, required=True)
    require_unlocked(conversation)
    require_new(list(conversation.items.values()), items)
    require_files(context_of(request).state, items)
    conversation.add(items)
    return json_response(_list(items))


async def list_items(request: Request) -> Response:
    """List items, the newest first unless asked otherwise."""
    conversation = _conversation(request)
    return json_response(page(list(conversation.items.values()), request.query_params))


async def retrieve_item(request: Request) -> Response:
    """Read one item."""
    conversation = _conversation(request)
    return json_response(_item(conversation, request.path_params["item_id"]))


async def delete_item(request: Request) -> Response:
    """Delete one item, and answer with the conversation."""
    conversation = _conversation(request)
    item = _item(conversation, request.path_params["item_id"])
    require_unlocked(conversation)
    del conversation.items[item["id"]]
    return json_response(conversation.body())


def require_unlocked(conversation: Conversation) -> None:
    """Refuse while a response runs in the conversation.

    Raises:
        ApiError: 400 `conversation_locked`.
    """
    if conversation.running_response_id is not None:
        raise ApiError(
            400,
            "Another process is currently operating on this conversation. "
            "Please retry in a few seconds.",
            param="conversation",
            code="conversation_locked",
        )


def _conversation(request: Request) -> Conversation:
    return context_of(request).state.conversation(request.path_params["conversation_id"])


def _item(conversation: Conversation, item_id: str) -> Item:
    found = conversation.items.get(item_id)
    if found is None:
        raise ApiError(404, f"Item with id '{item_id}' not found.", param="item_id")
    return found


def _list(items: list[Item]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else "",
        "last_id": items[-1]["id"] if items else "",
        "has_more": False,
    }


ROUTES = [
    Route("/v1/conversations", create, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", retrieve, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", update, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", delete, methods=["DELETE"]),
    Route("/v1/conversations/{conversation_id}/items", create_items, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}/items", list_items, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", retrieve_item, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items/{item_id}", delete_item, methods=["DELETE"]),
]
