"""Where to tell of jobs' ends, and what was told."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Webhook(Base):
    """An address that is told of the project's jobs. Its secret signs, so it is kept as it is."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class WebhookDelivery(Base):
    """One message to one address: written with the job's end, sent after it, tried again until it is taken."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_status_due_at", "status", "due_at"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(40))
    type: Mapped[str] = mapped_column(String(40))  # job.finished, webhook.test
    payload: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(20))  # waiting, delivered, given_up
    attempts: Mapped[int] = mapped_column(default=0)  # begun
    due_at: Mapped[datetime] = mapped_column(
        insert_default=db_now()
    )  # while one is under way: when it counts as lost
    answer_status: Mapped[int | None]  # the HTTP status of the last attempt
    problem: Mapped[str | None] = mapped_column(Text)  # why the last attempt failed
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    delivered_at: Mapped[datetime | None]
