"""The models table."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Model(Base):
    """An uploaded network. `upload_digest` is the file as it came, `digest` the tree of what was in it (once inspected)."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20), index=True)
    format: Mapped[str | None] = mapped_column(String(40))
    upload_digest: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    declared: Mapped[dict[str, Any]]  # what the uploader said: format, signature, architecture, license
    signature: Mapped[dict[str, Any] | None]
    facts: Mapped[dict[str, Any] | None]
    # a row for each layer, thousands perhaps: read where it is asked for
    structure: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    problem: Mapped[dict[str, Any] | None]
    inspect_attempts: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
