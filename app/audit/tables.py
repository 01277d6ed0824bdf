"""Who did what: one row a change, never changed itself."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class AuditEntry(Base):
    """One change that a key made, or that a command or the service itself made (no key then)."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(60))  # such as `job.cancelled`
    subject_id: Mapped[str | None] = mapped_column(String(40))
    request_id: Mapped[str | None] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
