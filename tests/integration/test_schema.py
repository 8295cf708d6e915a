"""The schema: migrations both ways, and the promises that Postgres itself keeps."""

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command

from app.adapters.postgres.migrate import migrate, migration_config
from tests.conftest import MODEL, NewDatabase, database_at, execute
from tests.stack import ROOT, SECRET, ends_with_done, running

DEBIAN = sorted(
    path.parent
    for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
    if int(path.parents[1].name) >= 15
)
UNPRIVILEGED = 65534


@contextmanager
def debian_postgres(binaries: Path, folder: Path) -> Iterator[str]:
    """Run a system's Postgres while the block lasts; it refuses to run as root."""
    folder.mkdir(parents=True)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        # Its folder must be reachable for somebody else than us.
        user = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
        os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        for parent in folder.parents:
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    init = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run(init, check=True, capture_output=True, cwd=folder, **user)
    server = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(server, stdout=log, stderr=log, cwd=folder, **user) as process,
    ):
        try:
            ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            for _ in range(200):
                if subprocess.run(ready, check=False).returncode == 0:
                    break
                assert process.poll() is None, (folder / "log").read_text()
                asyncio.run(asyncio.sleep(0.1))
            yield f"postgres://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()


@pytest.fixture(
    scope="module", params=["ours", *DEBIAN], ids=lambda p: p if p == "ours" else p.parent.name
)
def any_server(
    request: pytest.FixtureRequest, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Every Postgres that this machine has."""
    if request.param == "ours":
        yield server_url
        return
    with debian_postgres(request.param, tmp_path_factory.mktemp("system") / "postgres") as url:
        yield url


@pytest.fixture
async def empty(any_server: str) -> AsyncIterator[str]:
    """A database without a schema."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    await execute(any_server, f"CREATE DATABASE {name}")
    yield database_at(any_server, name)
    await execute(any_server, f"DROP DATABASE {name} WITH (FORCE)")


async def query(url: str, statement: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


async def tables(url: str) -> set[str]:
    rows = await query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


async def up(url: str) -> None:
    await asyncio.to_thread(migrate, url, default_model=MODEL)


async def test_the_schema_goes_up_has_no_difference_goes_down_and_up_again(empty: str) -> None:
    config = migration_config(empty)
    await up(empty)
    first = await tables(empty)
    assert {"users", "sessions", "messages", "runs", "events", "assistants"} <= first
    # Raises when the tables in code are not those of the migrations.
    await asyncio.to_thread(command.check, config)
    await asyncio.to_thread(command.downgrade, config, "base")
    assert await tables(empty) == {"alembic_version"}
    await up(empty)
    assert await tables(empty) == first
    await asyncio.to_thread(command.check, config)
    await up(empty)


async def test_the_default_assistant_is_there_with_the_operators_model(empty: str) -> None:
    await up(empty)
    rows = await query(
        empty,
        "SELECT a.id, a.tenant, v.config ->> 'model' AS model, v.config ->> 'name' AS name "
        "FROM assistants a JOIN assistant_versions v "
        "ON v.assistant_id = a.id AND v.version = a.version WHERE a.is_default",
    )
    assert [tuple(row) for row in rows] == [("asst_default", None, MODEL, "Math Tutor")]


def environment(url: str, folder: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ours = {
        "DATABASE_URL": url,
        "DATA_DIR": str(folder),
        "AUTH_JWT_SECRET": SECRET,
        "OPENAI_API_KEY": "sk-canary",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "PORT": "0",
    }
    return kept | ours | more


async def run_command(name: str, env: dict[str, str]) -> tuple[int | None, str]:
    """Run a command to its end; whoever does not end is ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        name,
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode()


async def test_replicas_that_migrate_together_wait_for_each_other(
    empty: str, tmp_path: Path
) -> None:
    env = environment(empty, tmp_path)
    done = await asyncio.gather(*(run_command("migrate", env) for _ in range(3)))
    assert [code for code, _ in done] == [0, 0, 0], done
    assert len(await query(empty, "SELECT * FROM alembic_version")) == 1
    assert len(await query(empty, "SELECT * FROM assistants")) == 1


@pytest.mark.parametrize("name", ["api", "worker"])
@pytest.mark.parametrize("state", ["without a schema", "empty", "behind"])
async def test_a_process_refuses_a_schema_that_is_behind(
    new_database: NewDatabase, tmp_path: Path, name: str, state: str
) -> None:
    url = await new_database()
    if state == "without a schema":
        await execute(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    elif state == "empty":
        await execute(url, "DELETE FROM alembic_version")
    else:
        await asyncio.to_thread(command.downgrade, migration_config(url), "-1")
    code, out = await run_command(name, environment(url, tmp_path))
    assert code not in {0, None}
    assert "migrate" in out
    assert "sk-canary" not in out
    assert SECRET not in out


@pytest.mark.parametrize("name", ["api", "worker", "migrate"])
@pytest.mark.parametrize("is_there", [False, True], ids=["no server", "no such database"])
async def test_a_process_whose_database_is_away_ends_and_says_so(
    server_url: str, tmp_path: Path, name: str, *, is_there: bool
) -> None:
    url = "postgres://somebody:canary-password@127.0.0.1:1/nowhere"
    if is_there:
        url = database_at(server_url, "nowhere")
    code, out = await run_command(name, environment(url, tmp_path))
    assert code == 2
    assert "The database is unreachable" in out
    assert ('"nowhere" does not exist' in out) is is_there
    assert "Traceback" not in out
    assert "canary-password" not in out


@pytest.mark.parametrize(
    ("name", "more", "word"),
    [
        ("api", {"DATABASE_URL": ""}, "DATABASE_URL"),
        ("worker", {"DATABASE_URL": ""}, "DATABASE_URL"),
        ("worker", {"OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),
        ("api", {"HOST": "0.0.0.0", "AUTH_JWT_SECRET": ""}, "AUTH_JWT_SECRET"),  # noqa: S104
        ("serve", {"HOST": "0.0.0.0", "OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),  # noqa: S104
        ("api", {"PORT": "canary"}, "PORT"),
        ("worker", {"RUN_LEASE_S": "-1"}, "RUN_LEASE_S"),
        ("api", {"AUTH_JWT_SECRET": "canary"}, "AUTH_JWT_SECRET"),
    ],
)
async def test_a_process_refuses_wrong_settings_in_words(
    database_url: str, tmp_path: Path, name: str, more: dict[str, str], word: str
) -> None:
    env = environment(database_url, tmp_path) | more
    code, out = await run_command(name, env)
    assert code not in {0, None}
    assert word in out
    assert "canary" not in out


# ---------------------------------------------------------------- constraints

RUN_COLUMNS = (
    "INSERT INTO runs (id, session_id, user_id, assistant_id, assistant_version, model, status, "
    "attempts, meta, seq, turn, created_at) VALUES ($1, 'sess_1', 'user_1', 'asst_default', 1, "
    "'m', $2, 0, '{}', $3, 1, now())"
)
MESSAGE_COLUMNS = (
    "INSERT INTO messages (id, session_id, run_id, role, status, content, meta, seq, turn, "
    "created_at) VALUES ($1, 'sess_1', $2, $3, 'completed', '[]', '{}', $4, 1, now())"
)
EVENT_COLUMNS = "INSERT INTO events (session_id, seq, type, data) VALUES ($1, $2, 'x', '{}')"


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that holds one user and one session."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO users (id, subject) VALUES ('user_1', 'alice')")
    await connection.execute(
        "INSERT INTO sessions (id, user_id, assistant_id, status, meta) "
        "VALUES ('sess_1', 'user_1', 'asst_default', 'open', '{}')"
    )
    yield connection
    await connection.close()


@pytest.mark.parametrize("first", ["in_progress", "requires_action", "cancelling"])
@pytest.mark.parametrize("second", ["in_progress", "requires_action", "cancelling"])
async def test_a_session_has_one_active_run(
    rows: asyncpg.Connection, first: str, second: str
) -> None:
    await rows.execute(RUN_COLUMNS, "run_1", first, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(RUN_COLUMNS, "run_2", second, 2)
    await rows.execute(RUN_COLUMNS, "run_3", "queued", 3)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute("UPDATE runs SET status = $1 WHERE id = 'run_3'", second)


async def test_a_session_has_any_number_of_runs_that_wait_or_have_ended(
    rows: asyncpg.Connection,
) -> None:
    statuses = ["queued", "queued", "completed", "completed", "failed", "in_progress"]
    for number, status in enumerate(statuses):
        await rows.execute(RUN_COLUMNS, f"run_{number}", status, number)


async def test_a_place_in_the_log_is_taken_once(rows: asyncpg.Connection) -> None:
    await rows.execute(EVENT_COLUMNS, "sess_1", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(EVENT_COLUMNS, "sess_1", 1)
    await rows.execute(RUN_COLUMNS, "run_1", "queued", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(RUN_COLUMNS, "run_2", "queued", 1)
    await rows.execute(MESSAGE_COLUMNS, "msg_1", None, "user", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(MESSAGE_COLUMNS, "msg_2", None, "user", 1)


async def test_a_run_has_one_answer(rows: asyncpg.Connection) -> None:
    await rows.execute(MESSAGE_COLUMNS, "msg_1", "run_1", "assistant", 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(MESSAGE_COLUMNS, "msg_2", "run_1", "assistant", 2)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users (id, subject) VALUES ('user_2', 'alice')",
        "INSERT INTO assistants (id, is_default, version, meta) VALUES ('a', true, 1, '{}')",
        "UPDATE sessions SET status = 'x'",
        "UPDATE sessions SET user_id = 'user_nobody'",
        "UPDATE sessions SET assistant_id = 'asst_none'",
        "DELETE FROM users",
        "DELETE FROM assistants",
        RUN_COLUMNS.replace("$1", "'r'").replace("$2", "'x'").replace("$3", "1"),
        RUN_COLUMNS.replace("$1", "'r'")
        .replace("$2", "'queued'")
        .replace("$3", "1")
        .replace("'asst_default', 1", "'asst_default', 2"),
        MESSAGE_COLUMNS.replace("$1", "'m'")
        .replace("$2", "NULL")
        .replace("$3", "'system'")
        .replace("$4", "1"),
    ],
)
async def test_what_must_not_be_is_refused_by_postgres(
    rows: asyncpg.Connection, statement: str
) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await rows.execute(statement)


# ---------------------------------------------------------------- supported servers


async def test_a_question_is_answered_on_every_postgres_here(empty: str, tmp_path: Path) -> None:
    await up(empty)
    async with running(empty, tmp_path / "stack") as stack:
        alice = stack.client()
        session = await alice.open_session(title="quadratics")
        run, text = await alice.ask(session, "Please solve 3x + 11 = 14")
        assert run["status"] == "completed"
        assert "1" in text
        replay = await alice.stream(f"/v1/sessions/{session}/runs/{run['id']}/events")
        assert "event: message.completed" in replay
        assert ends_with_done(replay)
        await alice.call("DELETE", f"/v1/sessions/{session}", 204)
