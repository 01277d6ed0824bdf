"""The measurements table."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Measurement(Base):
    """A number with its unit, its spread, its samples and the machine it was taken on."""

    __tablename__ = "measurements"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    side: Mapped[str] = mapped_column(String(20))  # reference, baseline, optimized, comparison
    name: Mapped[str] = mapped_column(String(60))  # latency_p50, accuracy, speedup, …
    unit: Mapped[str] = mapped_column(String(20))
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    samples: Mapped[dict[str, Any]]  # {count, launches, values…}
    machine: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
