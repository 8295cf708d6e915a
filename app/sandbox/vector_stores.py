"""The Vector stores endpoints."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.context import context_of
from app.sandbox.errors import ApiError, invalid, missing
from app.sandbox.ids import new_id
from app.sandbox.jsonio import is_array, is_object, json_response, read_metadata, read_object
from app.sandbox.pages import page
from app.sandbox.state import State
from app.sandbox.stores import StoreFile, VectorStore, counts, read_search, search

MAX_FILES: Final = 500
"""That one call may add."""
MAX_NAME: Final = 256
_DAYS: Final = range(1, 366)
_AUTO: Final[dict[str, Any]] = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
}
_NO_IDS: Final[list[Any]] = []
_NONE: Final[dict[str, Any]] = {}
_CHUNK: Final = range(100, 4097)


async def _body(request: Request, known: set[str]) -> dict[str, Any]:
    body = await read_object(request, context_of(request).config.max_body_bytes, optional=True)
    for name in body:
        if name not in known:
            raise ApiError(
                400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
            )
    return body


async def create(request: Request) -> Response:
    """Make a store, with files in it if there are any."""
    state = context_of(request).state
    body = await _body(
        request,
        {"name", "file_ids", "metadata", "expires_after", "chunking_strategy", "description"},
    )
    store = VectorStore(_name(body) or "", read_metadata(body), _expiry(body))
    _add(state, store, _file_ids(body), body, batch_id=None)
    state.stores[store.id] = store
    return json_response(store.body(is_new=True))


async def list_stores(request: Request) -> Response:
    """List stores, the newest first unless asked otherwise."""
    stores = context_of(request).state.stores.values()
    return json_response(page([store.body() for store in stores], request.query_params))


async def retrieve(request: Request) -> Response:
    """Read what is known of a store."""
    return json_response(_store(request).body())


async def update(request: Request) -> Response:
    """Change a store's name, metadata or expiry."""
    store = _store(request)
    body = await _body(request, {"name", "metadata", "expires_after"})
    if "name" in body:
        store.name = _name(body) or ""
    if "metadata" in body:
        store.metadata = read_metadata(body)
    if "expires_after" in body:
        store.expires_after = _expiry(body)
    return json_response(store.body())


async def delete(request: Request) -> Response:
    """Delete a store; its files stay."""
    store = _store(request)
    del context_of(request).state.stores[store.id]
    return json_response({"id": store.id, "object": "vector_store.deleted", "deleted": True})


async def search_store(request: Request) -> Response:
    """Search a store."""
    store = _store(request)
    body = await _body(
        request, {"query", "max_num_results", "filters", "ranking_options", "rewrite_query"}
    )
    query = body.get("query")
    if not isinstance(query, str):
        raise missing("query")
    data = [
        {**found.body(), "content": [{"type": "text", "text": found.text}]}
        for found in search([store], query, read_search(body, "body"))
    ]
    for each in data:
        del each["text"]
    return json_response(
        {
            "object": "vector_store.search_results.page",
            "search_query": [query],
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


async def create_file(request: Request) -> Response:
    """Put a file into a store."""
    store = _store(request)
    body = await _body(request, {"file_id", "attributes", "chunking_strategy"})
    file_id = body.get("file_id")
    if not isinstance(file_id, str):
        raise missing("file_id")
    _add(context_of(request).state, store, [file_id], body, batch_id=None)
    return json_response(store.files[file_id].body(store.id, is_new=True))


async def list_files(request: Request) -> Response:
    """List a store's files, or a batch's."""
    store = _store(request)
    files = list(store.files.values())
    if "batch_id" in request.path_params:
        files = _batch(request, store)
    wanted = request.query_params.get("filter")
    found = [file.body(store.id) for file in files if wanted in {None, file.status}]
    return json_response(page(found, request.query_params))


async def retrieve_file(request: Request) -> Response:
    """Read what is known of a file in a store."""
    store = _store(request)
    return json_response(_file(request, store).body(store.id))


async def delete_file(request: Request) -> Response:
    """Take a file out of a store; the file itself stays."""
    store = _store(request)
    file = _file(request, store)
    del store.files[file.id]
    return json_response({"id": file.id, "object": "vector_store.file.deleted", "deleted": True})


async def create_batch(request: Request) -> Response:
    """Put several files into a store."""
    store = _store(request)
    body = await _body(request, {"file_ids", "attributes", "chunking_strategy"})
    if not body.get("file_ids"):
        raise missing("file_ids")
    batch_id = new_id("vsfb")
    _add(context_of(request).state, store, _file_ids(body), body, batch_id=batch_id)
    return json_response(_batch_body(store, batch_id, is_new=True))


async def retrieve_batch(request: Request) -> Response:
    """Read what became of a batch."""
    store = _store(request)
    _batch(request, store)
    return json_response(_batch_body(store, request.path_params["batch_id"]))


def _batch_body(store: VectorStore, batch_id: str, *, is_new: bool = False) -> dict[str, Any]:
    files = [file for file in store.files.values() if file.batch_id == batch_id]
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": files[0].created_at,
        "vector_store_id": store.id,
        "status": "in_progress" if is_new else "completed",
        "file_counts": counts(files, is_new=is_new),
    }


def _add(
    state: State,
    store: VectorStore,
    file_ids: list[str],
    body: dict[str, Any],
    *,
    batch_id: str | None,
) -> None:
    chunking, attributes = _chunking(body), body.get("attributes", _NONE)
    if not is_object(attributes):
        raise invalid("attributes", "an object")
    files = [state.file(file_id) for file_id in file_ids]
    for file in files:
        store.files[file.id] = StoreFile(
            file.id, file.content, file.filename, chunking, attributes, batch_id
        )


def _name(body: dict[str, Any]) -> str | None:
    name = body.get("name")
    if name is not None and (not isinstance(name, str) or len(name) > MAX_NAME):
        raise invalid("name", f"a string of at most {MAX_NAME} characters")
    return name


def _file_ids(body: dict[str, Any]) -> list[str]:
    found = body.get("file_ids", _NO_IDS)
    if not is_array(found) or len(found) > MAX_FILES:
        raise invalid("file_ids", f"an array of at most {MAX_FILES} ids")
    return [str(each) for each in found]


def _expiry(body: dict[str, Any]) -> dict[str, Any] | None:
    found = body.get("expires_after")
    if found is None:
        return None
    if not is_object(found) or found.get("anchor") != "last_active_at":
        raise invalid("expires_after.anchor", "last_active_at")
    if found.get("days") not in _DAYS:
        raise invalid("expires_after.days", f"from {_DAYS[0]} to {_DAYS[-1]}")
    return {"anchor": "last_active_at", "days": found["days"]}


def _chunking(body: dict[str, Any]) -> dict[str, Any]:
    found = body.get("chunking_strategy")
    if found is None or (is_object(found) and found.get("type") == "auto"):
        return _AUTO
    static = found.get("static") if is_object(found) else None
    if not is_object(static):
        raise invalid("chunking_strategy", "auto, or static with its numbers")
    most, overlap = static.get("max_chunk_size_tokens"), static.get("chunk_overlap_tokens")
    if not isinstance(most, int) or not isinstance(overlap, int) or most not in _CHUNK:
        raise invalid("chunking_strategy.static", "numbers")
    if not 0 <= overlap <= most // 2:
        raise invalid("chunking_strategy.static", "numbers within their ranges")
    return {
        "type": "static",
        "static": {"max_chunk_size_tokens": most, "chunk_overlap_tokens": overlap},
    }


def _store(request: Request) -> VectorStore:
    return context_of(request).state.store(request.path_params["store_id"])


def _file(request: Request, store: VectorStore) -> StoreFile:
    file_id = request.path_params["file_id"]
    if file_id not in store.files:
        raise ApiError(404, f"No file found with id '{file_id}' in vector store '{store.id}'.")
    return store.files[file_id]


def _batch(request: Request, store: VectorStore) -> list[StoreFile]:
    batch_id = request.path_params["batch_id"]
    found = [file for file in store.files.values() if file.batch_id == batch_id]
    if not found:
        raise ApiError(404, f"No file batch found with id '{batch_id}'.")
    return found


_STORE: Final = "/v1/vector_stores/{store_id}"
_BATCHES: Final = f"{_STORE}/file_batches"
ROUTES = [
    Route("/v1/vector_stores", create, methods=["POST"]),
    Route("/v1/vector_stores", list_stores, methods=["GET"]),
    Route(_STORE, retrieve, methods=["GET"]),
    Route(_STORE, update, methods=["POST"]),
    Route(_STORE, delete, methods=["DELETE"]),
    Route(f"{_STORE}/search", search_store, methods=["POST"]),
    Route(f"{_STORE}/files", create_file, methods=["POST"]),
    Route(f"{_STORE}/files", list_files, methods=["GET"]),
    Route(f"{_STORE}/files/{{file_id}}", retrieve_file, methods=["GET"]),
    Route(f"{_STORE}/files/{{file_id}}", delete_file, methods=["DELETE"]),
    Route(_BATCHES, create_batch, methods=["POST"]),
    Route(f"{_BATCHES}/{{batch_id}}", retrieve_batch, methods=["GET"]),
    Route(f"{_BATCHES}/{{batch_id}}/files", list_files, methods=["GET"]),
]
