"""The driver's connection, as the repositories see it."""

from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]
else:
    Driver = asyncpg.Connection
