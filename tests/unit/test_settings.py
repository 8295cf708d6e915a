"""The operator's knobs: bounded, refused with words, and never repeated."""

import stat
from pathlib import Path

import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.container import local_defaults, make_upstream, token_verifier
from app.settings import Settings, SettingsError, load

CANARY = "canary-that-no-message-may-hold"
DATABASE = PostgresDatabase("postgres://nowhere/x", pool_size=2)
"""Never asked: what is refused is refused before."""
SECRET = f"{CANARY}-and-long-enough"


@pytest.fixture(autouse=True)
def _only_what_a_test_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return str(caught.value)


def test_nothing_has_to_be_set() -> None:
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.is_loopback
    assert settings.origins == []
    assert settings.upstream_api == "responses"
    assert not settings.upstream_background
    assert (settings.run_timeout_s, settings.run_lease_s, settings.run_max_attempts) == (
        600,
        30,
        3,
    )
    assert (settings.worker_concurrency, settings.worker_drain_s) == (200, 25)
    assert settings.max_message_chars == 32_000
    assert settings.max_body_bytes == 2 << 20
    assert settings.max_queued_runs_per_session == 10
    assert settings.max_queued_runs_per_user == 20
    assert settings.max_streams_per_user == 20


def test_a_dotenv_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nDEFAULT_MODEL=from-file\nUNKNOWN=1\n")
    monkeypatch.setenv("PORT", "9002")
    settings = load()
    assert (settings.port, settings.default_model) == (9002, "from-file")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "AUTH_JWT_SECRET", "PORT", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "")
    settings = load()
    assert settings.database_url is None
    assert settings.auth_jwt_secret is None
    assert settings.port == 8000


BOUNDS = [
    ("DB_POOL_SIZE", "2", "200", "1", "201"),
    ("PORT", "0", "65535", "-1", "65536"),
    ("RUN_TIMEOUT_S", "1", "86400", "0.9", "86401"),
    ("RUN_QUEUE_S", "1", "86400", "0", "86401"),
    ("RUN_LEASE_S", "1", "600", "0.5", "601"),
    ("RUN_MAX_ATTEMPTS", "1", "10", "0", "11"),
    ("WORKER_CONCURRENCY", "1", "5000", "0", "5001"),
    ("WORKER_DRAIN_S", "0", "600", "-1", "601"),
    ("UPSTREAM_FIRST_BYTE_S", "0.1", "600", "0", "601"),
    ("UPSTREAM_IDLE_S", "0.1", "600", "0", "601"),
    ("MAX_MESSAGE_CHARS", "1", "1000000", "0", "1000001"),
    ("MAX_BODY_BYTES", "1024", str(64 << 20), "1023", str((64 << 20) + 1)),
    ("MAX_QUEUED_RUNS_PER_SESSION", "1", "1000", "0", "1001"),
    ("MAX_QUEUED_RUNS_PER_USER", "1", "10000", "0", "10001"),
    ("MAX_STREAMS_PER_USER", "1", "10000", "0", "10001"),
    ("EVENT_RETENTION_H", "0.01", "87600", "0", "87601"),
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=lambda bounds: bounds[0])
def test_numbers_are_bounded(
    monkeypatch: pytest.MonkeyPatch, bounds: tuple[str, str, str, str, str]
) -> None:
    name, low, high, below, above = bounds
    for fine in (low, high):
        monkeypatch.setenv(name, fine)
        assert getattr(load(), name.lower()) == float(fine)
    for wrong in (below, above, "nan", "inf", "-inf", CANARY, "0x10"):
        message = refusal(monkeypatch, **{name: wrong})
        assert name in message
        assert CANARY not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://root:{CANARY}@db/x"),
        ("DATABASE_URL", CANARY),
        ("DATABASE_DIRECT_URL", f"sqlite:///{CANARY}"),
        ("DATABASE_URL", f"postgres://u:{CANARY}/w@db.example/x"),
        ("DATABASE_URL", f"postgres://u:{CANARY}#w@db.example/x"),
        ("DATABASE_URL", f"postgres://u:{CANARY}@[::1/x"),
        ("DATABASE_URL", f"postgres://u:{CANARY}@db.example:port/x"),
        ("DATABASE_DIRECT_URL", f"postgres://u:{CANARY}@db.example:65536/x"),
        ("OPENAI_BASE_URL", CANARY),
        ("OPENAI_BASE_URL", f"file:///{CANARY}"),
        ("CORS_ORIGINS", CANARY),
        ("CORS_ORIGINS", f"https://a.test,{CANARY}:3000"),
        ("CORS_ORIGINS", f"https://{CANARY}.test/"),
        ("CORS_ORIGINS", f"https://a.test https://{CANARY}.test"),
        ("AUTH_JWT_SECRET", CANARY[:31]),
        ("AUTH_JWKS_URL", f"ftp://{CANARY}"),
        ("AUTH_JWKS_URL", f"file:///{CANARY}"),
        ("UPSTREAM_API", CANARY),
        ("UPSTREAM_BACKGROUND", CANARY),
        ("LOG_LEVEL", CANARY),
        ("DEFAULT_MODEL", CANARY * 100),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = refusal(monkeypatch, **{name: value})
    assert name in message
    assert CANARY[:20] not in message


def test_every_wrong_setting_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, PORT="x", LOG_LEVEL="x", AUTH_JWT_SECRET="short")
    assert {line.partition(":")[0] for line in message.splitlines()} == {
        "PORT",
        "LOG_LEVEL",
        "AUTH_JWT_SECRET",
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@db.example:5432/x",
        "postgresql://u:p@db.example/x?sslmode=require",
        "postgres://u@/x?host=/tmp/sockets",
        "postgresql://postgres:@/x?host=/tmp/sockets",
        "postgres://u:p%2Fw@[::1]:5432/x",
        "postgres://u:p@a.example:5432,b.example:/x",
    ],
)
def test_database_urls_are_taken_as_hosters_print_them(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    settings = load()
    assert settings.database() == url
    assert settings.direct_database() == url
    monkeypatch.setenv("DATABASE_DIRECT_URL", "postgres://direct/x")
    assert load().direct_database() == "postgres://direct/x"


def test_a_missing_database_is_said_in_words() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load().database()


def test_a_missing_key_is_said_in_words() -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        make_upstream(load(), DATABASE)


def test_the_vendors_own_server_is_refused_for_a_dialect_that_it_speaks_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPSTREAM_API", "assistants")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL") as caught:
        make_upstream(load(), DATABASE)
    assert CANARY not in str(caught.value)


def test_the_sandbox_is_refused_for_a_dialect_that_it_does_not_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPSTREAM_API", "assistants")
    monkeypatch.setenv("DATABASE_URL", "postgres://h/d")
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL"), local_defaults(load()):
        pass


def test_background_answers_mean_nothing_where_runs_go_on_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refusal(monkeypatch, UPSTREAM_API="assistants", UPSTREAM_BACKGROUND="true")
    assert "UPSTREAM_BACKGROUND" in message


def test_a_dialect_that_nobody_speaks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "UPSTREAM_API" in refusal(monkeypatch, UPSTREAM_API="completions")


def test_two_signers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(
        monkeypatch, AUTH_JWT_SECRET=SECRET, AUTH_JWKS_URL="https://issuer.test/keys"
    )
    assert "AUTH_JWT_SECRET" in message
    assert "AUTH_JWKS_URL" in message
    assert CANARY not in message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "tutor.example"])  # noqa: S104
def test_a_host_that_others_reach_needs_a_signer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    monkeypatch.setenv("HOST", host)
    with pytest.raises(SettingsError, match="AUTH_JWT_SECRET"):
        token_verifier(load())
    assert not list(tmp_path.rglob("*.key"))
    monkeypatch.setenv("AUTH_JWT_SECRET", SECRET)
    token_verifier(load())


def test_on_loopback_a_development_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path / "data")
    key = settings.jwt_secret()
    assert len(key.encode()) >= 32
    assert load(data_dir=tmp_path / "data").jwt_secret() == key
    (path,) = (tmp_path / "data").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "short"])
def test_a_development_key_that_was_half_written_signs_nothing(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "development.key").write_text(content)
    with pytest.raises(SettingsError, match=r"development\.key"):
        load(data_dir=tmp_path).jwt_secret()


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "x"):
        with pytest.raises(SettingsError, match="DATA_DIR"):
            load(data_dir=folder).jwt_secret()


def test_a_dotenv_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("DEFAULT_MODEL=große".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"\.env"):
        load()


@pytest.mark.parametrize("origin", ["*", "null", "http://localhost:5173", "capacitor://localhost"])
def test_origins_are_what_browsers_send(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origin)
    assert load().origins == [origin]


def test_origins_are_a_list_and_log_levels_have_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", " https://a.test, https://b.test ,,")
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    settings = load()
    assert settings.origins == ["https://a.test", "https://b.test"]
    assert settings.log_level == "warning"


@pytest.mark.parametrize(("value", "means"), [("on", True), ("off", False), ("OFF", False)])
def test_users_have_assistants_of_their_own_unless_that_is_off(
    monkeypatch: pytest.MonkeyPatch, value: str, *, means: bool
) -> None:
    assert load().compat_assistants
    monkeypatch.setenv("COMPAT_ASSISTANTS", value)
    assert load().compat_assistants is means


def test_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "COMPAT_ASSISTANTS" in refusal(monkeypatch, COMPAT_ASSISTANTS="perhaps")


def test_secrets_are_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://u:{CANARY}@db/x")
    monkeypatch.setenv("DATABASE_DIRECT_URL", f"postgres://u:{CANARY}@db/x")
    monkeypatch.setenv("AUTH_JWT_SECRET", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    settings = load()
    assert CANARY not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
