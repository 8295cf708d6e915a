"""One real Postgres for the whole run; a database of its own for whoever asks."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from tests.stack import Stack, running

MODEL = "test-model"

# A busy machine is slow, which says nothing of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded Postgres 18, or the server that TEST_DATABASE_URL names."""
    named = os.environ.get("TEST_DATABASE_URL")
    if named:
        yield named
        return
    with temporary_postgres(tmp_path_factory.mktemp("pg") / "postgres") as url:
        yield url


def database_at(server_url: str, name: str) -> str:
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """A migrated database that others are copied from."""
    name = f"template_{uuid.uuid4().hex[:8]}"
    asyncio.run(execute(server_url, f"CREATE DATABASE {name}"))
    migrate(database_at(server_url, name), default_model=MODEL)
    return name


NewDatabase = Callable[[], Awaitable[str]]


@pytest.fixture(scope="session")
async def new_database(server_url: str, template: str) -> AsyncIterator[NewDatabase]:
    """Make a migrated database that nobody else uses."""
    made: list[str] = []

    async def make() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
        made.append(name)
        return database_at(server_url, name)

    yield make
    for name in made:
        await execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def database_url(new_database: NewDatabase) -> str:
    """A migrated database of the test's own."""
    return await new_database()


@pytest.fixture(scope="session")
async def shared(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Sandbox, two API processes and a worker that all harmless tests share, as own users."""
    folder: Path = tmp_path_factory.mktemp("shared")
    async with running(await new_database(), folder, apis=2) as stack:
        yield stack
