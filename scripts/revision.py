"""Write a new migration from the difference between the tables and a migrated database."""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from app.adapters.postgres.embedded import temporary_postgres

ROOT = Path(__file__).resolve().parents[1]

with temporary_postgres(Path(tempfile.mkdtemp()) / "postgres") as url:
    config = Config(str(ROOT / "alembic.ini"))
    config.attributes["url"] = url
    command.upgrade(config, "head")
    command.revision(config, message=sys.argv[1], autogenerate=True)
