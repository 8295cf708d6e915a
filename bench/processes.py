"""Starting, weighing and stopping the processes under measurement.

Only what was started here is ever stopped, by its own handle.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SATURATED = 0.9
"""The share of a core (or of the machine) above which a row says nothing about a contender."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Service:
    """A server process that the benchmark owns."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @classmethod
    def start(
        cls,
        name: str,
        arguments: list[str],
        *,
        env: Mapping[str, str],
        logs: Path,
        port: int = 0,
    ) -> "Service":
        """Start `python -m …` with exactly this environment, its output to a file."""
        log = logs / f"{name}-{time.monotonic_ns()}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        return cls(name, process, log, port)

    def wait_listening(self, within_s: float = 30.0) -> None:
        """Return once the port accepts.

        Raises:
            RuntimeError: It exited, or stayed deaf; carries the end of its log.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} does not listen on its port:\n{tail}")

    def stop(self) -> None:
        """Ask it to end, insist after ten seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)


@dataclass(frozen=True)
class Weighed:
    """CPU seconds so far, per name, and of the whole machine."""

    at: float
    cpu: dict[str, float]
    machine_busy: float


class Scales:
    """Reads the CPU clocks of named process trees."""

    def __init__(self) -> None:
        self.roots: dict[str, int] = {}

    def weigh(self) -> Weighed:
        """Read all the clocks now."""
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        # `guest` is part of `user` already; zero here, but a hypervisor may differ.
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        cpu = {name: tree_cpu_s(pid) for name, pid in self.roots.items()}
        return Weighed(time.monotonic(), cpu, busy)


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process, its living descendants, and its reaped children.

    A Postgres backend that exits moves into its postmaster's children times: nothing is lost.
    """
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                clock = process.cpu_times()
                total += clock.user + clock.system + clock.children_user + clock.children_system
    return total


def rss_kib(pid: int) -> float:
    """Resident KiB now."""
    return float(psutil.Process(pid).memory_info().rss) / 1024


def peak_rss_mib(pid: int) -> float:
    """The largest resident set so far; where the kernel does not tell, the present one."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return rss_kib(pid) / 1024


def tree_memory_mib(pid: int) -> float | None:
    """Proportional memory of a tree: Postgres shares its buffers among all its processes."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        return float(sum(process.memory_full_info().pss for process in tree)) / 2**20
    except (psutil.Error, AttributeError):
        return None


def others(before: Weighed, after: Weighed) -> float:
    """Cores' worth of work by processes that are no part of the benchmark."""
    window = after.at - before.at
    ours = sum(seconds - before.cpu[name] for name, seconds in after.cpu.items())
    return max(0.0, (after.machine_busy - before.machine_busy - ours) / window)


def saturation(before: Weighed, after: Weighed) -> str:
    """Which process, or the machine, was saturated in the window; empty when none was."""
    window = after.at - before.at
    for name, seconds in after.cpu.items():
        # Postgres is many processes: only the machine's total can say that it is at its end.
        if name != "postgres" and (seconds - before.cpu[name]) / window > SATURATED:
            return name
    cores = psutil.cpu_count() or 1
    share = (after.machine_busy - before.machine_busy) / (window * cores)
    return "machine" if share > SATURATED else ""
