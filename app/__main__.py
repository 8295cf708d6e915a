"""The command line: serve | api | worker | sandbox | migrate | token and more."""

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn

from app.api.protocol import AbortableProtocol
from app.container import (
    api_services,
    check_api,
    configure_logs,
    delete_user,
    local_defaults,
    migrate,
    sign_token,
    token_verifier,
    worker_services,
)
from app.domain.errors import DomainError, StorageUnavailableError
from app.importer import HELP, Importer, add_arguments, options_of
from app.main import create_app
from app.settings import Settings, SettingsError, load
from app.worker import Worker

DRAIN_STREAMS_S = 3
"""Time for open requests to end; streams are ended at once, by themselves."""
KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections: a request sent on one that closes is lost."""
GC_ALLOCATIONS = 20_000
"""New objects between two collections; Python's own 700 is one run's first token."""
DEV_TOKEN_S = 7 * 24 * 3600
MAX_PORT = 65_535


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it re-raises the signal, so never exits with 0."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the command."""
        yield


def _server(settings: Settings) -> _Server:
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="none",
        http=AbortableProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=DRAIN_STREAMS_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips or None,
    )
    return _Server(config)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _on_signals(act: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for name in STOP_SIGNALS:
        loop.add_signal_handler(name, act)


async def _serve_api(settings: Settings) -> int:
    async with api_services(settings) as services:
        # Refused here in words; in the lifespan uvicorn would print a traceback.
        await services.health.ready()
    server = _server(settings)

    def stop() -> None:
        server.should_exit = True

    _on_signals(stop)
    await server.serve()
    return 0 if server.started else 1


async def _serve_worker(settings: Settings) -> int:
    async with worker_services(settings) as services:
        worker = Worker(
            services, concurrency=settings.worker_concurrency, drain_s=settings.worker_drain_s
        )
        _on_signals(worker.stop)
        await worker.run()
    return 0


async def _serve_all(settings: Settings, stopped_early: threading.Event) -> int:
    server = _server(settings)
    async with worker_services(settings) as services:
        worker = Worker(
            services, concurrency=settings.worker_concurrency, drain_s=settings.worker_drain_s
        )

        def stop() -> None:
            server.should_exit = True
            worker.stop()

        _on_signals(stop)
        if stopped_early.is_set():
            return 0
        working = asyncio.create_task(worker.run(), name="worker")
        working.add_done_callback(lambda _: stop())
        await server.serve()
        worker.stop()
        await working
    return 0 if server.started else 1


def _run(main: Callable[[Settings], Coroutine[None, None, int]], settings: Settings) -> int:
    configure_logs(settings.log_level)
    # What is loaded stays: walking through it again and again costs a tenth of a busy process.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main(settings))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _serve(settings: Settings) -> int:
    stopped = threading.Event()

    def hold(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    def hold_signals() -> None:
        # A start or a stop that is cut short would leave Postgres and the sandbox behind.
        for name in STOP_SIGNALS:
            signal.signal(name, hold)

    hold_signals()
    # Before a database is made for what can't be served.
    token_verifier(settings)
    with ExitStack() as stack:
        configure_logs(settings.log_level)
        whole = stack.enter_context(local_defaults(settings))
        stack.callback(hold_signals)
        if stopped.is_set():
            return 0
        migrate(whole)
        _greet(whole, is_sandbox=settings.openai_api_key is None)
        return _run(lambda found: _serve_all(found, stopped), whole)


GREETING = """
Tutor Relay   {url}   (documents: {url}/docs)
"""
SANDBOX_WARNING = """
*** No OPENAI_API_KEY: answers come from the SANDBOX, an offline tutor on this machine.
*** It solves school mathematics without any model. Set OPENAI_API_KEY for a real one.
"""
TRY_IT = """
Try it:
  export TOKEN={token}
  SESSION=$(curl -s -X POST {url}/v1/sessions -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{{}}' | cut -d'"' -f4)
  curl -N {url}/v1/sessions/$SESSION/messages -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -H 'Accept: text/event-stream' \\
    -d '{{"content":"Please solve 3x**2 + 11x - 10 = 0"}}'
"""


def _greet(settings: Settings, *, is_sandbox: bool) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    words = GREETING.format(url=url)
    if is_sandbox:
        words += SANDBOX_WARNING
    if settings.auth_jwks_url is None:
        token = sign_token(settings, subject="alice", scope="", ttl_s=DEV_TOKEN_S)
        words += TRY_IT.format(url=url, token=token)
    print(words, flush=True)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_PORT:
        raise ValueError
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="everything on this machine, with local defaults")
    commands.add_parser("api", help="the HTTP API, against DATABASE_URL")
    commands.add_parser("worker", help="a worker, against DATABASE_URL")
    commands.add_parser("migrate", help="bring DATABASE_URL's schema up to date")
    sandbox = commands.add_parser("sandbox", help="an offline upstream to develop against")
    sandbox.add_argument("--host", default="127.0.0.1")
    sandbox.add_argument("--port", type=_port, default=8001)
    sandbox.add_argument("--tokens-per-second", type=float, default=40.0)
    sandbox.add_argument(
        "--until-eof", action="store_true", help="stop when standard input is closed"
    )
    leaver = commands.add_parser("delete-user", help="delete a user, and all that is theirs")
    leaver.add_argument("--user", required=True, help="the token's `sub`")
    leaver.add_argument("--tenant", default=None, help="the token's `tenant`")
    token = commands.add_parser("token", help="print a token signed with the configured secret")
    token.add_argument("--user", required=True)
    token.add_argument("--scope", default="")
    token.add_argument("--ttl", type=int, default=DEV_TOKEN_S, help="seconds")
    add_arguments(commands.add_parser("import-threads", help=HELP))
    return parser


def _sandbox(arguments: argparse.Namespace) -> int:
    from app.sandbox.config import SandboxConfig  # noqa: PLC0415 - SymPy is heavy
    from app.sandbox.server import run  # noqa: PLC0415 - and only needed here

    pace = SandboxConfig(tokens_per_second=arguments.tokens_per_second)
    if arguments.until_eof:
        threading.Thread(target=_stop_at_eof, name="until-eof", daemon=True).start()
    run(arguments.host, arguments.port, pace)
    return 0


def _stop_at_eof() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _dispatch(arguments: argparse.Namespace) -> int:  # noqa: PLR0911 - a line for each command
    settings = load()
    match arguments.command:
        case "serve":
            return _serve(settings)
        case "api":
            check_api(settings)
            return _run(_serve_api, settings)
        case "worker":
            settings.database()
            return _run(_serve_worker, settings)
        case "delete-user":
            receipt = asyncio.run(delete_user(settings, arguments.user, arguments.tenant))
            print(
                f"{receipt.user_id} is deleted, with {receipt.sessions} sessions. "
                f"{receipt.kept_upstream} things that the upstream keeps are deleted there "
                "by the workers."
            )
            return 0
        case "migrate":
            migrate(settings)
            print("The schema is up to date.")
            return 0
        case "import-threads":
            importer = Importer(options_of(arguments))
            return _run(lambda found: importer.run(found, _on_signals), settings)
        case _:
            print(
                sign_token(
                    settings,
                    subject=arguments.user,
                    scope=arguments.scope,
                    ttl_s=arguments.ttl,
                )
            )
            return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 2 with words on standard error when it can't be."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "sandbox":
        return _sandbox(arguments)
    try:
        return _dispatch(arguments)
    except (SettingsError, DomainError) as error:
        # Why the database is away is the operator's to know; it names no password.
        why = f" ({error.__cause__})" if isinstance(error, StorageUnavailableError) else ""
        print(f"tutor-relay: {error}{why}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
