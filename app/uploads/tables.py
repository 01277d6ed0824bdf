"""Uploads that are under way, or complete and not yet a model or a dataset."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Upload(Base):
    """A file that arrives over several requests; its bytes are a partial blob in the store."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)  # as declared; None: not known yet
    offset_bytes: Mapped[int] = mapped_column(
        BigInteger, default=0
    )  # durable when it was last written down; the store knows better
    sha256: Mapped[str | None] = mapped_column(String(64))  # as declared, in hex
    digest: Mapped[str | None] = mapped_column(String(64), index=True)  # of the blob, once it is complete
    appends: Mapped[int] = mapped_column(
        default=0
    )  # requests that appended; a stale one's number writes nothing
    lease_expires_at: Mapped[datetime | None]  # while one request appends
    expires_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
