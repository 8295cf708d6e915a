"""The operator's knobs: environment variables, or `.env`; refused at start when wrong."""

import re
import secrets
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.files import TYPES

MIN_SECRET_BYTES = 32
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
MAX_PORT = 65_535
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{0,5}))?")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")


class SettingsError(Exception):
    """What is wrong, one line for each setting, without any value."""


class Settings(BaseSettings):
    """Read once in an entry point, then passed as values."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(
        default=None, description="Postgres 15 or newer; unset, `serve` embeds one."
    )
    database_direct_url: SecretStr | None = Field(
        default=None, description="Past a transaction pooler, for LISTEN and migrations."
    )
    db_pool_size: int = Field(
        default=5,
        ge=2,
        le=200,
        description="Pooled connections a process; of an API one is its relay's.",
    )
    data_dir: Path = Field(default=Path(".data"), description="What the embedded defaults keep.")

    openai_api_key: SecretStr | None = Field(default=None, description="The upstream's key.")
    openai_base_url: str | None = Field(
        default=None, pattern=r"^https?://[^/]", description="The upstream, `/v1` included."
    )
    upstream_api: Literal["responses", "assistants"] = Field(
        default="responses", description="Its dialect."
    )
    upstream_background: bool = Field(
        default=False, description="Whether answers are generated detached from connections."
    )
    upstream_first_byte_s: float = Field(
        default=60, gt=0, le=600, description="Silence tolerated before an answer's first byte."
    )
    upstream_idle_s: float = Field(
        default=30, gt=0, le=600, description="Silence tolerated inside an answer's stream."
    )
    default_model: str = Field(
        default="gpt-5.4-mini",
        min_length=1,
        max_length=256,
        description="Of the default assistant.",
    )

    host: str = Field(default="127.0.0.1", description="Where `serve` and `api` listen.")
    port: int = Field(
        default=8000, ge=0, le=MAX_PORT, description="Where `serve` and `api` listen."
    )
    cors_origins: str = Field(
        default="", description="Origins, comma-separated, that browsers may call from."
    )
    forwarded_allow_ips: str = Field(
        default="", description="Proxies whose X-Forwarded-* headers are believed."
    )

    auth_jwt_secret: SecretStr | None = Field(
        default=None, description="HS256 key of the users' tokens, at least 32 bytes."
    )
    auth_jwks_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Public keys of the users' tokens."
    )
    auth_issuer: str | None = Field(default=None, description="Required `iss`, if set.")
    auth_audience: str | None = Field(default=None, description="Required `aud`, if set.")

    run_timeout_s: float = Field(default=600, ge=1, le=86_400, description="A run's whole life.")
    run_queue_s: float = Field(
        default=3600, ge=1, le=86_400, description="A run that waits longer than this expires."
    )
    run_lease_s: float = Field(
        default=30, ge=1, le=600, description="A run silent this long may be taken over."
    )
    run_max_attempts: int = Field(
        default=3, ge=1, le=10, description="Generations a run may cost."
    )
    worker_concurrency: int = Field(default=200, ge=1, le=5000, description="Runs at once.")
    worker_drain_s: float = Field(
        default=25, ge=0, le=600, description="Time for runs to end after SIGTERM."
    )

    compat_assistants: bool = Field(
        default=True, description="Users may configure assistants of their own, over /openai/v1."
    )

    max_message_chars: int = Field(default=32_000, ge=1, le=1_000_000, description="A text.")
    max_tool_output_chars: int = Field(
        default=200_000, ge=1, le=1_000_000, description="What the functions of a run return."
    )
    tool_timeout_s: float = Field(
        default=10, gt=0, le=300, description="Time for one call of one of the server's own tools."
    )
    max_body_bytes: int = Field(default=2 << 20, ge=1024, le=64 << 20, description="A body.")
    body_timeout_s: float = Field(
        default=20, gt=0, le=600, description="Time for a client to send a body."
    )
    max_bodies: int = Field(
        default=250, ge=1, le=10_000, description="Requests with a body at once, in each process."
    )
    max_queued_runs_per_session: int = Field(default=10, ge=1, le=1000, description="Queued runs.")
    max_queued_runs_per_user: int = Field(default=20, ge=1, le=10_000, description="Queued runs.")
    max_queued_runs: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Queued runs of all users."
    )
    max_file_bytes: int = Field(default=32 << 20, ge=1024, le=512 << 20, description="A file.")
    file_types: str = Field(
        default="png,jpeg,gif,webp,pdf,text", description="Kinds of files that are taken."
    )
    file_timeout_s: float = Field(
        default=120, ge=1, le=3600, description="Time for a file to pass, whole."
    )
    max_files_per_user: int = Field(default=200, ge=1, le=100_000, description="Files of a user.")
    max_files_bytes_per_user: int = Field(
        default=1 << 30, ge=1024, le=1 << 40, description="Bytes of all files of a user."
    )
    max_uploads: int = Field(
        default=20, ge=1, le=1000, description="Files sent at once, in each API process."
    )
    max_streams_per_user: int = Field(
        default=20, ge=1, le=10_000, description="Open streams of a user, in each API process."
    )
    event_retention_h: float = Field(
        default=72, gt=0, le=87_600, description="Deltas of finished messages are kept this long."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much is logged."
    )

    @field_validator("auth_jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes")
        return value

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("postgres://", "postgresql://")
        if value is None:
            return None
        if not value.get_secret_value().startswith(schemes):
            raise ValueError("must start with postgres:// or postgresql://")
        if not _names_hosts(value.get_secret_value()):
            # The driver would print what it stumbles over, which may be half of a password.
            raise ValueError("must be a URL: `/ ? # [ ]` in a name or password are written as %XX")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in value.split(","):
            # As a browser sends it; any other would be refused without a word.
            if origin.strip() and not _ORIGIN.fullmatch(origin.strip()):
                raise ValueError("must be `*` or origins such as https://app.example, no path")
        return value

    @field_validator("file_types")
    @classmethod
    def _known_types(cls, value: str) -> str:
        names = {name.strip() for name in value.split(",")}
        if not names <= set(TYPES):
            raise ValueError(f"must be some of {', '.join(TYPES)}, comma-separated")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        if self.auth_jwt_secret and self.auth_jwks_url:
            raise ValueError("set AUTH_JWT_SECRET or AUTH_JWKS_URL, not both")
        return self

    @model_validator(mode="after")
    def _background_has_a_meaning(self) -> Self:
        if self.upstream_background and self.upstream_api == "assistants":
            raise ValueError(
                "UPSTREAM_BACKGROUND has no meaning with UPSTREAM_API=assistants, whose runs "
                "always go on by themselves: leave it out"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the API; defaults meant for one are refused else."""
        return self.host in LOOPBACK

    @property
    def run_lease(self) -> timedelta:
        """A run silent this long may be taken over."""
        return timedelta(seconds=self.run_lease_s)

    @property
    def origins(self) -> list[str]:
        """The allowed origins."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def media_types(self) -> frozenset[str]:
        """The media types of files that are taken."""
        return frozenset(TYPES[name.strip()] for name in self.file_types.split(","))

    def database(self) -> str:
        """Return `DATABASE_URL`.

        Raises:
            SettingsError: It is not set.
        """
        if self.database_url is None:
            raise SettingsError("DATABASE_URL is not set (only `serve` embeds a Postgres)")
        return self.database_url.get_secret_value()

    def direct_database(self) -> str:
        """Return the URL that bypasses a pooler: `DATABASE_DIRECT_URL`, else `DATABASE_URL`."""
        if self.database_direct_url is not None:
            return self.database_direct_url.get_secret_value()
        return self.database()

    @property
    def is_pooled(self) -> bool:
        """Whether the operator names a way past `DATABASE_URL`: then that is a pooler's."""
        return self.database_direct_url not in {None, self.database_url}

    def data_folder(self) -> Path:
        """Return `DATA_DIR`, made if it is not there.

        Raises:
            SettingsError: It can't be made.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"DATA_DIR can't be used: {error.strerror}") from None
        return self.data_dir

    def jwt_secret(self) -> str:
        """Return the HS256 secret; on a loopback host without one, a development key is made.

        Raises:
            SettingsError: Others can reach the host, and nobody is trusted to sign tokens, or
                the development key is damaged, or can't be kept.
        """
        if self.auth_jwt_secret is not None:
            return self.auth_jwt_secret.get_secret_value()
        if not self.is_loopback:
            raise SettingsError(
                "set AUTH_JWT_SECRET or AUTH_JWKS_URL: HOST is not loopback, so the development "
                "key is refused"
            )
        path = self.data_folder() / "development.key"
        if not path.exists():
            _write_key(path)
        key = path.read_text()
        if len(key.encode()) < MIN_SECRET_BYTES:
            # Anybody could sign with an empty one.
            raise SettingsError("development.key in DATA_DIR is damaged: delete it")
        return key


def _names_hosts(url: str) -> bool:
    """Tell whether what stands between `//` and the path are hosts and ports."""
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    except ValueError:
        return False
    found = [_HOST.fullmatch(host) for host in hosts]
    return all(match and int(match["port"] or 0) <= MAX_PORT for match in found)


def _write_key(path: Path) -> None:
    """Write a fresh key, whole or not at all: processes that start together share one."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def load(**overrides: object) -> Settings:
    """Read the environment.

    Raises:
        SettingsError: A setting is missing or out of bounds.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])).upper() or 'settings'}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    except UnicodeDecodeError:
        raise SettingsError(".env is not UTF-8 text") from None
