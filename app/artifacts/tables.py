"""Artifacts, and what they were made from."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Artifact(Base):
    """A file that a job made; its digest names the blob."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_project_id_created_at_id", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))  # engine, report, model, …: `schemas.Kind`
    filename: Mapped[str] = mapped_column(String(255))
    media_type: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    tree_digest: Mapped[str | None] = mapped_column(
        String(64), index=True
    )  # kind `model`: the tree that a job can start from
    manifest: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class ArtifactInput(Base):
    """One thing that an artifact was made from: a model, a dataset or an artifact."""

    __tablename__ = "artifact_inputs"

    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(40), primary_key=True)  # subject, calibration, evaluation, …
    input_id: Mapped[str] = mapped_column(String(40), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(String(64))
