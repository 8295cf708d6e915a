"""Run migrations under an advisory lock, so that replicas that start together don't race.

The URL comes from the caller (`config.attributes["url"]`) or from `DATABASE_DIRECT_URL`, else
`DATABASE_URL`: advisory locks do not survive a transaction pooler.
"""

import asyncio
from typing import Any

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import app.adapters.postgres.kept_tables  # noqa: F401 - its tables are the schema's too
from app.adapters.postgres.tables import Base
from app.settings import load

ADVISORY_LOCK = 7_305_128_834_119
"""Any number that no other program takes in this database."""


def _url() -> str:
    url = context.config.attributes.get("url")
    return str(url) if url else load().direct_database()


def _migrate(connection: Connection) -> None:
    # A migration that waits for a lock makes every query behind it wait too: give up soon.
    connection.execute(text("SET lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text("SET lock_timeout = '4s'"))
    connection.execute(text("SET statement_timeout = '60s'"))
    connection.commit()
    try:
        context.configure(
            connection=connection, target_metadata=Base.metadata, compare_server_default=True
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


async def _run() -> None:
    async def connect() -> Any:
        return await asyncpg.connect(_url(), timeout=10)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


asyncio.run(_run())
