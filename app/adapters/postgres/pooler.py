"""Transaction poolers (pgbouncer and its kin): telling that one is there, and living behind it.

Behind one, any two transactions may run on different connections of the server: what a session
keeps (prepared statements, settings, LISTEN, advisory locks) is somebody else's a moment later.
"""

from typing import Final

import asyncpg

SETTINGS: Final = {
    # Every statement here has an index to go by. A plan that was made, and kept, while the tables
    # were still small would read all of them at each commit when they no longer are.
    "enable_seqscan": "off",
    "idle_in_transaction_session_timeout": "15s",
    "jit": "off",
    # What a stuck writer costs those who share a tick with it, once (`Publisher`).
    "lock_timeout": "2s",
    # Left to itself Postgres plans the tick and the relay's read anew each time.
    "plan_cache_mode": "force_generic_plan",
    "statement_timeout": "30s",
}
"""Of every connection; behind a pooler, which refuses or forgets them, of every transaction."""
SET_LOCAL: Final = ";".join(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items())


async def is_pooled(dsn: str) -> bool:
    """Tell whether a pooler stands between us and Postgres.

    The process that a pooler announces is one of its own invention, and not the one that answers.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: The database is away.
    """
    connection = await asyncpg.connect(
        dsn,
        timeout=5,
        command_timeout=5,
        statement_cache_size=0,
        server_settings={"application_name": "tutor-relay"},
    )
    try:
        answering = await connection.fetchval("SELECT pg_backend_pid()")
        return bool(answering != connection.get_server_pid())
    finally:
        connection.terminate()
