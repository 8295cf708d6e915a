"""The API application: routers, handlers, lifespan (`uvicorn app.main:app`)."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from app import __version__
from app.api import (
    assistants,
    documents,
    events,
    files,
    health,
    me,
    messages,
    problems,
    runs,
    schemas,
    sessions,
)
from app.api.compat import files as compat_files
from app.api.compat import routes as compat
from app.api.compat.errors import fault as compat_fault
from app.api.middleware import Allowance, EdgeMiddleware
from app.api.multipart import FORM_BYTES
from app.container import api_services, configure_logs
from app.domain.errors import StorageUnavailableError
from app.settings import Settings, load

DESCRIPTION = """\
The backend between a tutoring app and the OpenAI API. Open a **session**, post **messages**, and
get each answer as a **run** that you can poll or follow as server-sent events; nothing that a
student saw is lost. Errors are `application/problem+json` with a stable `code`.
"""

HEADERS_IN = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
SDK_HEADERS = (
    "OpenAI-Beta",
    "OpenAI-Organization",
    "OpenAI-Project",
    "X-Stainless-Arch",
    "X-Stainless-Custom-Poll-Interval",
    "X-Stainless-Helper-Method",
    "X-Stainless-Lang",
    "X-Stainless-OS",
    "X-Stainless-Package-Version",
    "X-Stainless-Poll-Helper",
    "X-Stainless-Retry-Count",
    "X-Stainless-Runtime",
    "X-Stainless-Runtime-Version",
    "X-Stainless-Timeout",
)
"""What OpenAI's SDK sends from a browser, to the Assistants-compatible face."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; without settings it reads the environment."""
    chosen = settings or load()
    configure_logs(chosen.log_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with api_services(chosen) as services:
            with suppress(StorageUnavailableError):
                # Away for a moment, which requests are told, and is no reason not to begin.
                await services.health.ready()
            app.state.services = services
            relay = asyncio.create_task(services.relay.run(), name="relay")

            def close() -> None:
                services.relay.close()
                services.files.close()

            with _before_shutdown(close):
                yield
            close()
            relay.cancel()
            with suppress(asyncio.CancelledError):
                await relay

    app = FastAPI(
        title="Tutor Relay",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # A redirect would name the host that the caller chose.
        redirect_slashes=False,
    )
    app.state.field_names = schemas.field_names()
    problems.install(app)
    for module in (me, assistants, sessions, messages, runs, events, files, health):
        app.include_router(module.router)
    app.include_router(compat.router)
    documents.install(app)
    app.add_middleware(
        EdgeMiddleware,
        usual=Allowance(chosen.max_body_bytes, chosen.body_timeout_s),
        max_bodies=chosen.max_bodies,
        uploads={
            path: Allowance(chosen.max_file_bytes + FORM_BYTES, chosen.file_timeout_s)
            for path in (files.PATH, compat_files.PATH)
        },
        on_fault=_fault,
    )
    if chosen.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[*HEADERS_IN, *SDK_HEADERS],
            expose_headers=["Location", "Retry-After", "X-Request-ID", "OpenAI-Poll-After-Ms"],
            max_age=600,
        )
    return app


async def _fault(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a failure of ours in the dialect that was asked in."""
    is_compat = scope["path"].startswith(compat.PREFIX)
    await (compat_fault if is_compat else problems.fault)(scope, receive, send)


@contextmanager
def _before_shutdown(act: Callable[[], None]) -> Generator[None]:
    """Act on SIGTERM and SIGINT before the server does.

    uvicorn waits for open streams before it ends the lifespan: they would never end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for name in previous:
        signal.signal(name, on_signal)
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def __getattr__(name: str) -> FastAPI:
    """Make `app` when it is first asked for: importing this module reads no environment."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
