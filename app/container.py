"""The composition root: settings in, wired services out."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr

from app.adapters.assistants.upstream import AssistantsUpstream
from app.adapters.files import FilesConfig, WireFiles
from app.adapters.local import sandbox_process
from app.adapters.logs import configure_logs
from app.adapters.postgres.database import PostgresDatabase
from app.adapters.postgres.migrate import migrate as migrate_database
from app.adapters.postgres.outages import outages_named
from app.adapters.postgres.pooler import is_pooled
from app.adapters.postgres.wakeups import PostgresWakeUps
from app.adapters.responses.upstream import ResponsesUpstream
from app.adapters.stores import WireStores
from app.adapters.tokens import JwksTokenVerifier, SecretTokenVerifier, TokenRules, sign
from app.adapters.tools.mathematics import Mathematics
from app.adapters.tools.toolbox import Toolbox
from app.adapters.wire.client import UpstreamConfig
from app.domain import ids
from app.domain.text import is_name
from app.ports import Database, TokenVerifier, Upstream, WakeUps
from app.services.actions import ActionService
from app.services.assistants import AssistantService
from app.services.crowd import Crowd
from app.services.erasure import ErasureService, Receipt
from app.services.execution import Executor
from app.services.files import FileLimits, FileService
from app.services.health import HealthService
from app.services.imports import ImportService
from app.services.publisher import Publisher
from app.services.queue import QueuePolicy, QueueService
from app.services.relay import Relay
from app.services.runs import RunService
from app.services.sessions import SessionService
from app.services.stores import StoreService
from app.services.threads import ThreadService
from app.services.tickets import TicketService
from app.services.tutors import TutorBook
from app.services.upkeep import UpkeepService
from app.services.users import Limits, UserService
from app.settings import Settings, SettingsError

__all__ = ["configure_logs"]

POLL = timedelta(seconds=5)
"""How long a lost wake-up may go unnoticed by readers."""
API_PATIENCE_S = 10
"""A student's request is told to come again rather than left without an answer."""
WORKER_PATIENCE_S = 35
"""Upkeep may be long; Postgres itself ends what takes more than 30 s."""


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What the front door needs."""

    users: UserService
    assistants: AssistantService
    sessions: SessionService
    runs: RunService
    actions: ActionService
    threads: ThreadService
    tickets: TicketService
    files: FileService
    stores: StoreService
    relay: Relay
    health: HealthService


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker process needs."""

    queue: QueueService
    publisher: Publisher
    executor: Executor
    upkeep: UpkeepService
    wakeups: WakeUps
    database: Database


@asynccontextmanager
async def api_services(settings: Settings) -> AsyncGenerator[ApiServices]:
    """Wire the front door's services; close their connections at the end."""
    # One of them is the relay's alone: requests that wait for a lock may hold all others, and
    # would keep every stream waiting too.
    pool_size = settings.db_pool_size - 1
    database = _database(settings, patience_s=API_PATIENCE_S, pool_size=pool_size)
    news = _database(settings, patience_s=API_PATIENCE_S, pool_size=1)
    limits = Limits(
        message_chars=settings.max_message_chars,
        queued_runs_per_session=settings.max_queued_runs_per_session,
        queued_runs=settings.max_queued_runs_per_user,
        streams=settings.max_streams_per_user,
        tool_output_chars=settings.max_tool_output_chars,
        file_bytes=settings.max_file_bytes,
        files=settings.max_files_per_user,
        files_bytes=settings.max_files_bytes_per_user,
    )
    relay = Relay(database, _wakeups(settings), news=news, max_streams=limits.streams, poll=POLL)
    runs = RunService(database, relay, limits, Crowd(settings.max_queued_runs))
    assistants = AssistantService(database, own_allowed=settings.compat_assistants)
    upstream_files = make_upstream_files(settings)
    try:
        yield ApiServices(
            users=UserService(database, token_verifier(settings), limits),
            assistants=assistants,
            sessions=SessionService(database),
            runs=runs,
            actions=ActionService(database, relay),
            threads=ThreadService(database, relay, runs, assistants),
            tickets=TicketService(database),
            files=FileService(database, upstream_files, _file_limits(settings)),
            stores=StoreService(database, WireStores(upstream_files)),
            relay=relay,
            health=HealthService(database),
        )
    finally:
        await upstream_files.aclose()
        await news.aclose()
        await database.aclose()


@asynccontextmanager
async def worker_services(settings: Settings) -> AsyncGenerator[WorkerServices]:
    """Wire a worker's services; close their connections at the end."""
    database = _database(settings, patience_s=WORKER_PATIENCE_S, pool_size=settings.db_pool_size)
    upstream = make_upstream(settings, database)
    upstream_files = make_upstream_files(settings)
    publisher = Publisher(database)
    policy = QueuePolicy(
        lease=settings.run_lease,
        lifetime=timedelta(seconds=settings.run_timeout_s),
        queue_limit=timedelta(seconds=settings.run_queue_s),
    )
    worker_id = ids.new_id(ids.WORKER)
    mathematics = Mathematics()
    tools = Toolbox(mathematics.tools, timeout_s=settings.tool_timeout_s)
    executor = Executor(
        database, upstream, publisher, tools, worker_id, max_attempts=settings.run_max_attempts
    )
    retention = timedelta(hours=settings.event_retention_h)
    try:
        yield WorkerServices(
            queue=QueueService(database, worker_id, policy),
            publisher=publisher,
            executor=executor,
            upkeep=UpkeepService(
                database,
                upstream,
                upstream_files,
                WireStores(upstream_files),
                retention=retention,
            ),
            wakeups=_wakeups(settings),
            database=database,
        )
    finally:
        await mathematics.aclose()
        await upstream_files.aclose()
        await upstream.aclose()
        await database.aclose()


@asynccontextmanager
async def import_service(settings: Settings) -> AsyncGenerator[ImportService]:
    """Wire what takes conversations from elsewhere; close its connections at the end."""
    database = _database(settings, patience_s=WORKER_PATIENCE_S, pool_size=settings.db_pool_size)
    try:
        yield ImportService(database)
    finally:
        await database.aclose()


def _database(settings: Settings, *, patience_s: float, pool_size: int) -> PostgresDatabase:
    return PostgresDatabase(
        settings.database(),
        pool_size=pool_size,
        # Whoever names a way past a pooler has one; else it is looked for.
        pooled=True if settings.is_pooled else None,
        patience_s=patience_s,
    )


def _wakeups(settings: Settings) -> PostgresWakeUps:
    pooled = False if settings.database_direct_url else None
    return PostgresWakeUps(settings.direct_database(), pooled=pooled)


def _file_limits(settings: Settings) -> FileLimits:
    return FileLimits(
        size=settings.max_file_bytes,
        types=settings.media_types,
        files=settings.max_files_per_user,
        total=settings.max_files_bytes_per_user,
        uploads=settings.max_uploads,
    )


def make_upstream_files(settings: Settings) -> WireFiles:
    """Return the adapter for the upstream's files, which are the same in every dialect.

    Without a key it fails only when it is used: the API needs none for anything else.
    """
    key = settings.openai_api_key
    return WireFiles(
        FilesConfig(
            api_key="none" if key is None else key.get_secret_value(),
            base_url=settings.openai_base_url,
            answer_s=settings.upstream_first_byte_s,
            transfer_s=settings.file_timeout_s,
            # Uploads, and as many downloads.
            max_connections=2 * settings.max_uploads + 10,
        )
    )


def make_upstream(settings: Settings, database: Database) -> Upstream:
    """Return the adapter for the configured upstream.

    Raises:
        SettingsError: It is not told where the upstream is, or has no key.
    """
    if settings.openai_api_key is None:
        raise SettingsError("OPENAI_API_KEY is not set (only `serve` runs a sandbox without it)")
    config = UpstreamConfig(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        first_byte_s=settings.upstream_first_byte_s,
        idle_s=settings.upstream_idle_s,
        # One stream a run, and room for the calls beside them.
        max_connections=settings.worker_concurrency + 50,
        background=settings.upstream_background,
    )
    if settings.upstream_api == "responses":
        return ResponsesUpstream(config)
    if settings.openai_base_url is None:
        raise SettingsError(
            "UPSTREAM_API=assistants needs OPENAI_BASE_URL: OpenAI's own server has not spoken "
            "it since 2026-08-26"
        )
    return AssistantsUpstream(config, TutorBook(database))


def check_api(settings: Settings) -> None:
    """Refuse settings that the API can't serve with, before it starts.

    Raises:
        SettingsError: Something is missing.
    """
    settings.database()
    token_verifier(settings)


def token_rules(settings: Settings) -> TokenRules:
    """Return what tokens must say."""
    return TokenRules(settings.auth_issuer, settings.auth_audience)


def token_verifier(settings: Settings) -> TokenVerifier:
    """Return the verifier for the configured signer."""
    if settings.auth_jwks_url is not None:
        return JwksTokenVerifier(settings.auth_jwks_url, token_rules(settings))
    return SecretTokenVerifier(settings.jwt_secret(), token_rules(settings))


def sign_token(settings: Settings, *, subject: str, scope: str, ttl_s: int) -> str:
    """Return a token signed with the configured secret.

    Raises:
        SettingsError: Tokens are signed elsewhere, or the secret is not set, or nobody would take
            such a token.
    """
    if settings.auth_jwks_url is not None:
        raise SettingsError("AUTH_JWKS_URL is set: tokens are signed elsewhere")
    if not is_name(subject):
        raise SettingsError("--user could be in no token")
    if ttl_s < 1:
        raise SettingsError("--ttl must be at least a second")
    return sign(
        settings.jwt_secret(),
        subject=subject,
        scope=scope,
        ttl_s=ttl_s,
        rules=token_rules(settings),
    )


def migrate(settings: Settings) -> None:
    """Bring the schema up to date.

    Raises:
        SettingsError: Only a pooler is known, through which replicas can't wait for each other.
        StorageUnavailableError: The database is away; what was not committed can be run again.
    """
    with outages_named():
        if settings.database_direct_url is None and asyncio.run(is_pooled(settings.database())):
            raise SettingsError("DATABASE_URL is a pooler's: set DATABASE_DIRECT_URL to migrate")
        migrate_database(settings.direct_database(), default_model=settings.default_model)


async def delete_user(settings: Settings, subject: str, tenant: str | None) -> Receipt:
    """Forget a user, and have all that is theirs deleted.

    Raises:
        NotFoundError: There is none.
    """
    database = _database(settings, patience_s=WORKER_PATIENCE_S, pool_size=settings.db_pool_size)
    try:
        return await ErasureService(database).delete_user(subject, tenant)
    finally:
        await database.aclose()


@contextmanager
def local_defaults(settings: Settings) -> Generator[Settings]:
    """Own what is not configured, as processes of one machine, while the block lasts.

    Raises:
        SettingsError: Others can reach the host, and the sandbox would answer them; or it does
            not speak the configured dialect.
    """
    # The production image has no embedded server.
    from app.adapters.postgres.embedded import embedded_postgres  # noqa: PLC0415

    changes: dict[str, object] = {}
    with ExitStack() as stack:
        if settings.openai_api_key is None:
            if settings.upstream_api == "assistants":
                raise SettingsError(
                    "UPSTREAM_API=assistants needs OPENAI_BASE_URL and OPENAI_API_KEY: the "
                    "sandbox does not speak it"
                )
            if not settings.is_loopback:
                raise SettingsError(
                    "set OPENAI_API_KEY: HOST is not loopback, so the sandbox is refused"
                )
            changes["openai_base_url"] = stack.enter_context(sandbox_process())
            changes["openai_api_key"] = SecretStr("sandbox")
        if settings.database_url is None:
            folder = settings.data_folder().absolute() / "postgres"
            changes["database_url"] = SecretStr(stack.enter_context(embedded_postgres(folder)))
        yield settings.model_copy(update=changes)
