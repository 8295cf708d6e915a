"""The API application begins, or refuses to, in words."""

import httpx2
import pytest

from app.domain.errors import SchemaBehindError
from app.main import create_app
from app.settings import Settings
from tests.conftest import database_at, execute
from tests.stack import SECRET


def settings(database_url: str) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None, database_url=database_url, auth_jwt_secret=SECRET, log_level="warning"
    )


async def test_an_outage_at_the_start_is_told_and_waited_for() -> None:
    app = create_app(settings("postgres://postgres@127.0.0.1:1/none"))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://testserver"
        ) as http,
    ):
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == "storage_unavailable"


async def test_a_schema_that_is_not_ours_is_refused_at_the_start(server_url: str) -> None:
    await execute(server_url, "CREATE DATABASE empty_at_start")
    try:
        app = create_app(settings(database_at(server_url, "empty_at_start")))
        with pytest.raises(SchemaBehindError):
            async with app.router.lifespan_context(app):
                pass
    finally:
        await execute(server_url, "DROP DATABASE empty_at_start WITH (FORCE)")
