"""The statements that run on the driver's own connection: Postgres takes each, in one call."""

import importlib
import pkgutil
from collections.abc import Iterator

import asyncpg

from app.adapters import postgres

VERBS = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


def statements() -> Iterator[tuple[str, str]]:
    """Return every SQL constant of the adapter, by its name."""
    for module in pkgutil.iter_modules(postgres.__path__, f"{postgres.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, str) and value.strip().startswith(VERBS):
                yield f"{module.name}.{name}", value


async def test_no_statement_makes_a_new_connection_ask_what_its_types_are(
    database_url: str,
) -> None:
    # The driver asks with a query that costs as much as four commits of a tick, whenever a burst
    # of runs needs another connection.
    connection = await asyncpg.connect(database_url)
    asked: list[str] = []
    connection.add_query_logger(lambda record: asked.append(record.query))
    guilty: list[str] = []
    found = dict(statements())
    for name, statement in found.items():
        asked.clear()
        await connection.prepare(statement)
        if any("typeinfo" in query for query in asked):
            guilty.append(name)
    await connection.close()
    assert len(found) > 50
    assert not guilty
