"""Runs a sandbox of its own: `python -m app.sandbox --port 8100`."""

import argparse

from app.sandbox.config import SandboxConfig
from app.sandbox.server import run


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--tokens-per-second", type=float, default=40.0)
    wanted = parser.parse_args()
    run(wanted.host, wanted.port, SandboxConfig(tokens_per_second=wanted.tokens_per_second))


if __name__ == "__main__":
    main()
