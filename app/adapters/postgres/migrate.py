"""Bring a schema up to date, as the command line and the tests do."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config

from app.adapters.postgres.database import ROOT


def migration_config(url: str) -> Config:
    """Return Alembic's configuration for a database."""
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url
    return config


def migrate(url: str, *, default_model: str) -> None:
    """Upgrade to the newest schema; replicas that start together wait for each other.

    Must be called outside an event loop.
    """
    with _environment("DEFAULT_MODEL", default_model):
        command.upgrade(migration_config(url), "head")


@contextmanager
def _environment(name: str, value: str) -> Generator[None]:
    """Settings may come from `.env`, which a migration does not read."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
