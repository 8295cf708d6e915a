"""Tables of what users keep upstream: files, vector stores, and the ledger of it all."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.adapters.postgres.tables import Base


class UpstreamObjectRow(Base):
    """Every file and generation kept upstream; an entry stands here before its object does.

    No foreign keys: the record of what was deleted outlives user and session. Threads have
    `upstream_threads`, which earlier releases write.
    """

    __tablename__ = "upstream_objects"
    __table_args__ = (
        Index(
            "ix_upstream_objects_session",
            "session_id",
            postgresql_where="session_id IS NOT NULL AND deleted_at IS NULL",
        ),
        Index("ix_upstream_objects_user", "user_id", postgresql_where="deleted_at IS NULL"),
        Index(
            "ix_upstream_objects_due",
            "retry_at",
            postgresql_where="retired_at IS NOT NULL AND deleted_at IS NULL",
        ),
        Index(
            "ix_upstream_objects_unknown",
            "opened_at",
            postgresql_where="upstream_id IS NULL AND retired_at IS NULL",
        ),
    )

    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """Our own id of it, where it has one."""
    upstream_id: Mapped[str | None]
    """None until the upstream has given it; if that is never heard, it is looked for by name."""
    user_id: Mapped[str]
    session_id: Mapped[str | None]
    opened_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    retired_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[datetime] = mapped_column(server_default=func.now())


class FileRow(Base):
    """A user's file. What the upstream calls it stands in `upstream_objects`."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_owner", "user_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    filename: Mapped[str]
    size: Mapped[int]
    media_type: Mapped[str]
    purpose: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class FileUseRow(Base):
    """A session in whose messages a file is."""

    __tablename__ = "file_uses"
    __table_args__ = (Index("ix_file_uses_session", "session_id"),)

    file_id: Mapped[str] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True
    )


class VectorStoreRow(Base):
    """A user's collection of files. What the upstream calls it stands in `upstream_objects`."""

    __tablename__ = "vector_stores"
    __table_args__ = (Index("ix_vector_stores_owner", "user_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    meta: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class StoreFileRow(Base):
    """A file in a vector store, as the upstream last told of it."""

    __tablename__ = "vector_store_files"
    __table_args__ = (
        Index("ix_vector_store_files_file", "file_id"),
        Index("ix_vector_store_files_age", "store_id", "created_at", "file_id"),
    )

    store_id: Mapped[str] = mapped_column(
        ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True
    )
    file_id: Mapped[str] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    batch_id: Mapped[str | None]
    status: Mapped[str]
    usage_bytes: Mapped[int]
    error: Mapped[dict[str, Any] | None]
    chunking: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
