"""Who is measured: the upstream itself, the naive relay, and Tutor Relay, all on loopback."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jwt

from bench.client import Kind
from bench.postgres import Counters
from bench.processes import ROOT, Scales, Service, free_port

USERS = 60
"""Enough that 1,000 streams stay below the relay's 20 streams a user."""


@dataclass
class Contender:
    """Somebody to measure: where to knock, and whose clocks to read."""

    kind: Kind
    port: int
    pids: dict[str, int]
    bearers: list[str] = field(default_factory=list)


class Stage:
    """Holds what was started, and starts fresh copies for the idle rows."""

    def __init__(self, logs: Path, stack: ExitStack) -> None:
        self._logs = logs
        self._stack = stack
        self._secret = secrets.token_urlsafe(48)
        self._database = ""
        self.counters: Counters | None = None
        self.scales = Scales()
        self.contenders: dict[Kind, Contender] = {}
        port = _port()
        self.upstream = self._start("upstream", ["bench.upstream", "--port", str(port)], port)
        self.upstream.wait_listening()
        self.scales.roots["upstream"] = self.upstream.process.pid
        self.contenders["upstream"] = Contender(
            "upstream", port, {"upstream": self.upstream.process.pid}
        )

    def add_naive(self) -> None:
        """The 40 lines."""
        service = self.fresh_naive()
        self.contenders["naive"] = Contender("naive", service.port, {"naive": service.process.pid})
        self.scales.roots["naive"] = service.process.pid

    def add_relay(self, database: str) -> None:
        """One API process and one worker process against one Postgres."""
        self._database = database
        _run(["app", "migrate"], self._relay_env(0))
        api = self.fresh_api()
        worker = self._start("worker", ["app", "worker"], 0)
        self.counters = self._stack.enter_context(Counters(database))
        pids = {"api": api.process.pid, "worker": worker.process.pid}
        postmaster = self.counters.postmaster()
        if postmaster is not None:
            pids["postgres"] = postmaster
        self.scales.roots |= pids
        bearers = [self._token(f"bench-{number}") for number in range(USERS)]
        self.contenders["relay"] = Contender("relay", api.port, pids, bearers)

    def last_words(self) -> str:
        """The end of every process's log."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}"
            for log in sorted(self._logs.glob("*.log"))
        )

    def fresh_api(self) -> Service:
        """An API process that has served nobody yet."""
        port = _port()
        service = self._start("api", ["app", "api"], port)
        service.wait_listening()
        return service

    def fresh_naive(self) -> Service:
        """A naive relay that has served nobody yet."""
        port = _port()
        service = self._start("naive", ["bench.naive"], port)
        service.wait_listening()
        return service

    def _start(self, name: str, arguments: list[str], port: int) -> Service:
        env = self._relay_env(port) if arguments[0] == "app" else self._plain_env(port)
        service = Service.start(name, arguments, env=env, logs=self._logs, port=port)
        self._stack.callback(service.stop)
        return service

    def _plain_env(self, port: int) -> dict[str, str]:
        env = {"PATH": os.environ["PATH"], "PORT": str(port)}
        if "upstream" in self.contenders:
            base = f"http://127.0.0.1:{self.contenders['upstream'].port}/v1"
            env |= {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": base}
        return env

    def _relay_env(self, port: int) -> dict[str, str]:
        return self._plain_env(port) | {
            "DATABASE_URL": self._database,
            "DATA_DIR": str(self._logs / "data"),
            "AUTH_JWT_SECRET": self._secret,
            "HOST": "127.0.0.1",
            # Settings given by hand reach the relay, so that they can be compared.
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(("WORKER_", "DB_", "RUN_", "LOG_", "UPSTREAM_", "EVENT_"))
            },
        }

    def _token(self, subject: str) -> str:
        claims = {"sub": subject, "exp": int(time.time()) + 3600}
        return jwt.encode(claims, self._secret, algorithm="HS256")


_given: set[int] = set()


def _port() -> int:
    """A free port never given before in this run: the probe's socket is closed already."""
    port = free_port()
    while port in _given:
        port = free_port()
    _given.add(port)
    return port


def _run(arguments: list[str], env: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=env,
        check=False,
        capture_output=True,
        timeout=60,
    )
    if result.returncode:
        output = (result.stdout + result.stderr).decode(errors="replace")[-2000:]
        raise RuntimeError(f"python -m {' '.join(arguments)} failed:\n{output}")


@contextmanager
def stage(logs: Path) -> Iterator[Stage]:
    """A stage with only the upstream on it; everything on it is stopped at the end."""
    with ExitStack() as stack:
        yield Stage(logs, stack)
