"""The pool of connections gives up what the server ended, and makes no noise about it."""

import logging

import psycopg
import pytest

from app.adapters.postgres.database import PostgresDatabase

CUT_OFF = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tutor-relay'
"""


async def test_connections_that_were_ended_while_a_process_was_frozen_are_closed_quietly(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = PostgresDatabase(database_url, pool_size=2)
    async with database.autocommit() as one, database.autocommit() as other:
        await one.log.now()
        await other.log.now()
    # Nothing is awaited from here on: as when it is frozen, the process hears of nothing.
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute(CUT_OFF).fetchall()
    with caplog.at_level(logging.WARNING):
        await database.aclose()
    assert ended == [(True,), (True,)]
    assert caplog.text == ""
