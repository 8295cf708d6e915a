"""The sandbox as an ASGI application."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox import admin, conversations, files, models, responses, vector_stores
from app.sandbox.config import SandboxConfig
from app.sandbox.context import Context
from app.sandbox.errors import ApiError
from app.sandbox.faults import FaultBook
from app.sandbox.gate import Gate
from app.sandbox.jsonio import json_response
from app.sandbox.ledger import Ledger
from app.sandbox.pace import PaceBook
from app.sandbox.planning import Answerer
from app.sandbox.state import State
from app.sandbox.tutor.offline import Tutor


def create_app(config: SandboxConfig | None = None, tutor: Answerer | None = None) -> Starlette:
    """Make a sandbox with its own memory.

    Args:
        config: Settings; the defaults suit development.
        tutor: Whoever finds the words; by default the tutor that solves mathematics.

    Returns:
        The application. Faults that cut connections need the protocol that
        `app.sandbox.server` runs it with.
    """
    config = config or SandboxConfig()
    offline = Tutor(config.solve_deadline_s)
    context = Context(
        config=config,
        state=State(),
        faults=FaultBook(),
        ledger=Ledger(),
        pace=PaceBook(config.tokens_per_second),
        tutor=tutor or offline,
        calculator=offline,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        if tutor is None:
            # importing SymPy takes long: before the first student asks, not after
            await asyncio.to_thread(offline.warm_up)
        try:
            yield
        finally:
            await context.state.reset()
            await offline.aclose()

    app = Starlette(
        routes=[
            Route("/healthz", _healthz, methods=["GET"]),
            *models.ROUTES,
            *conversations.ROUTES,
            *responses.ROUTES,
            *files.ROUTES,
            *vector_stores.ROUTES,
            *admin.ROUTES,
        ],
        exception_handlers={
            ApiError: _refused,
            ClientDisconnect: _left,
            HTTPException: _not_routed,
            Exception: _broken,
        },
        middleware=[Middleware(Gate, context=context)],
        lifespan=lifespan,
    )
    app.state.context = context
    return app


async def _healthz(_: Request) -> Response:
    return json_response({"status": "ok"})


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return json_response(error.body(), error.status)


async def _left(_: Request, __: Exception) -> Response:
    # Nobody hears it: a client that leaves within an upload is no defect to be logged.
    return Response(status_code=400)


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"Invalid URL ({request.method} {request.url.path})"
    return json_response(ApiError(status, message).body(), status)


async def _broken(_: Request, error: Exception) -> Response:
    name = type(error).__name__
    body = ApiError(500, f"The sandbox has a defect: {name}.", kind="server_error").body()
    return json_response(body, 500)
