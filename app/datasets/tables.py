"""The datasets table."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Dataset(Base):
    """Uploaded samples. `digest` is the tree that holds the file (once inspected)."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20), index=True)
    format: Mapped[str | None] = mapped_column(String(40))
    upload_digest: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    samples: Mapped[int | None] = mapped_column(BigInteger)
    inputs: Mapped[dict[str, Any] | None]  # name -> {dtype, shape}, shapes without the sample axis
    labels: Mapped[dict[str, Any] | None]  # {name, dtype, shape, classes}, or null
    declared: Mapped[dict[str, Any] | None]  # what the uploader said of how it is read: fields, transforms
    problem: Mapped[dict[str, Any] | None]
    inspect_attempts: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
