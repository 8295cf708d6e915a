"""The endpoints for whoever tests against the sandbox; no key is needed."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.context import Context, context_of
from app.sandbox.faults import read_rule
from app.sandbox.jsonio import is_array, json_response, read_json, read_object

_MAX_BODY = 16 * 1024 * 1024


async def add_faults(request: Request) -> Response:
    """Add a rule, or a list of rules, behind those that are there."""
    context = context_of(request)
    body = await read_json(request, _MAX_BODY)
    rules = body if is_array(body) else [body]
    context.faults.rules += [read_rule(rule) for rule in rules]
    return _faults(context)


async def list_faults(request: Request) -> Response:
    """List the rules with their counters."""
    return _faults(context_of(request))


async def clear_faults(request: Request) -> Response:
    """Remove all rules."""
    context = context_of(request)
    context.faults.rules.clear()
    return _faults(context)


async def get_pace(request: Request) -> Response:
    """Tell the pace."""
    return json_response(context_of(request).pace.body())


async def set_pace(request: Request) -> Response:
    """Set the pace of everyone, or of requests that contain a text."""
    pace = context_of(request).pace
    pace.update(await read_object(request, _MAX_BODY))
    return json_response(pace.body())


async def clear_pace(request: Request) -> Response:
    """Return to the configured pace."""
    pace = context_of(request).pace
    pace.reset()
    return json_response(pace.body())


async def reset(request: Request) -> Response:
    """Forget all as a restart would; `{"keep": ["faults", "pace", "posts"]}` spares those."""
    context = context_of(request)
    body = await read_object(request, _MAX_BODY, optional=True)
    keep = body.get("keep", [])
    await context.state.reset()
    if not is_array(keep) or "faults" not in keep:
        context.faults.rules.clear()
    if not is_array(keep) or "pace" not in keep:
        context.pace.reset()
    if not is_array(keep) or "posts" not in keep:
        context.ledger.posts.clear()
    return json_response({"ok": True})


async def posts(request: Request) -> Response:
    """List every `POST /v1/responses`: what was asked, and how it was met."""
    return json_response(context_of(request).ledger.body())


async def stats(request: Request) -> Response:
    """Count what arrived and what is there."""
    state = context_of(request).state
    running = [each for each in state.responses.values() if not each.done]
    return json_response(
        {
            "response_posts": state.calls["POST /v1/responses"],
            "generations": state.generations,
            "generations_completed": state.generations_completed,
            "calls": dict(state.calls),
            "conversations": len(state.conversations),
            "conversations_made": state.conversations_made,
            "items": sum(len(each.items) for each in state.conversations.values()),
            "items_of_deleted_conversations": sum(
                len(each.items) for each in state.orphans.values()
            ),
            "responses": len(state.responses),
            "files": len(state.files),
            "files_made": state.files_made,
            "stores": len(state.stores),
            "running": len(running),
            "running_background": sum(each.background for each in running),
            "locked_conversations": sum(
                each.running_response_id is not None for each in state.conversations.values()
            ),
            "open_streams": state.open_streams,
            "faults_fired": state.faults_fired,
        }
    )


def _faults(context: Context) -> Response:
    rules = [rule.view() for rule in context.faults.rules]
    return json_response({"object": "list", "rules": rules})


ROUTES = [
    Route("/sandbox/faults", add_faults, methods=["POST"]),
    Route("/sandbox/faults", list_faults, methods=["GET"]),
    Route("/sandbox/faults", clear_faults, methods=["DELETE"]),
    Route("/sandbox/pace", get_pace, methods=["GET"]),
    Route("/sandbox/pace", set_pace, methods=["POST"]),
    Route("/sandbox/pace", clear_pace, methods=["DELETE"]),
    Route("/sandbox/posts", posts, methods=["GET"]),
    Route("/sandbox/reset", reset, methods=["POST"]),
    Route("/sandbox/stats", stats, methods=["GET"]),
]
