"""A real pgbouncer in transaction mode, for tests to put between our processes and Postgres."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.stack import free_port

BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")
# Fewer connections than statements at once, each taken in turn: what is left behind on one meets
# somebody else's at once.
CONFIG = """
[databases]
{name} = {server} dbname={name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
server_login_retry = 1
query_wait_timeout = 5
max_client_conn = 500
"""


@dataclass
class Pooler:
    """A pgbouncer before one database."""

    folder: Path
    url: str
    port: int
    account: dict[str, Any]
    process: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert BINARY is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, self.folder / "pgbouncer.ini"], stdout=log, stderr=log, **self.account
            )
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def pooler_before(database_url: str) -> Iterator[Pooler]:
    """Run a pgbouncer before a database while the block lasts; it refuses to run as root."""
    url = urlsplit(database_url)
    socket_dir = (parse_qs(url.query).get("host") or [None])[0]
    user, name = url.username or "postgres", url.path.removeprefix("/")
    server = f"host={socket_dir or url.hostname} port={url.port or 5432} user={user}"
    if url.password:
        server += f" password={url.password}"
    with TemporaryDirectory(prefix="pooler") as made:
        folder, account = Path(made), dict[str, Any]()
        if os.geteuid() == 0:
            # Who owns the server's socket may use it.
            owner = Path(socket_dir).stat().st_uid if socket_dir else 65534
            account = {"user": owner, "group": owner, "extra_groups": []}
            os.chown(folder, owner, owner)
        port = free_port()
        config = CONFIG.format(name=name, server=server, port=port)
        (folder / "pgbouncer.ini").write_text(config)
        pooler = Pooler(folder, f"postgres://{user}@127.0.0.1:{port}/{name}", port, account)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.kill()
