"""Jobs, their steps and logs, and the step cache."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Job(Base):
    """One request to do work: one row, one state machine (`status.py`)."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_project_id_created_at_id", "project_id", "created_at", "id"),
        Index("ix_jobs_status_lease_expires_at", "status", "lease_expires_at"),
        Index(
            "ix_jobs_project_id_status_queue_created_at_id",
            "project_id",
            "status",
            "queue",
            "created_at",
            "id",
        ),
        # lists by status, and by label where the database is PostgreSQL
        Index("ix_jobs_project_id_status_created_at_id", "project_id", "status", "created_at", "id"),
        Index(
            "ix_jobs_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str | None] = mapped_column(String(200))
    labels: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(20))
    stage: Mapped[str | None] = mapped_column(String(100))
    progress: Mapped[dict[str, Any]]  # {done, total, message}
    request: Mapped[dict[str, Any]]  # the body as sent, defaults filled in, pass versions pinned
    subject: Mapped[str] = mapped_column(String(40), index=True)
    subject_digest: Mapped[str] = mapped_column(String(64))
    datasets: Mapped[
        list[str]
    ]  # every dataset, model and artifact that the request names besides the subject
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    retry_of: Mapped[str | None] = mapped_column(String(40))
    traceparent: Mapped[str | None] = mapped_column(
        String(64)
    )  # of the request that queued it, if that was traced
    queue: Mapped[str] = mapped_column(String(80))

    attempt: Mapped[int] = mapped_column(
        default=0
    )  # every write of a worker carries it: a stale one writes nothing
    stalled_attempts: Mapped[int] = mapped_column(default=0)  # attempts since the last newly stored step
    worker_id: Mapped[str | None] = mapped_column(String(40))
    lease_expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime] = mapped_column(insert_default=db_now())

    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    pending_until: Mapped[datetime]
    running_until: Mapped[datetime | None]
    handed_over_at: Mapped[datetime | None]  # while it waits for a worker that goes on with it
    # in queues, between a worker that handed it over and the next
    waited_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    nodes_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")  # of workers that helped

    not_before: Mapped[datetime | None]  # until then it is not claimed again: it waits for nodes
    gathered: Mapped[int] = mapped_column(default=0, server_default="0")  # how often in vain, in a row

    result: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]


class JobStep(Base):
    """One step of a job as the client sees it."""

    __tablename__ = "job_steps"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20))  # running, done, failed
    cached: Mapped[bool] = mapped_column(default=False)
    seconds: Mapped[float | None]
    key: Mapped[str | None] = mapped_column(String(64))
    facts: Mapped[dict[str, Any]]


class JobLog(Base):
    """A piece of a job's log."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    attempt: Mapped[int]
    text: Mapped[str] = mapped_column(Text)


class StepResult(Base):
    """A stored step, under the key of its whole cause. Not shared between projects."""

    __tablename__ = "step_results"
    __table_args__ = (Index("ix_step_results_project_id_last_used_at", "project_id", "last_used_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64), index=True)  # a tree in storage
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    last_used_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class Consumption(Base):
    """How long a job ran, workers that helped with it included: kept when the job itself is deleted, so that it can be paid for."""

    __tablename__ = "consumption"
    __table_args__ = (Index("ix_consumption_project_id_finished_at", "project_id", "finished_at"),)

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    seconds: Mapped[float]
    finished_at: Mapped[datetime]


class Gang(Base):
    """The workers that one attempt of a job trains with, from when it asks for them. All of them, or none, begin."""

    __tablename__ = "gangs"
    __table_args__ = (Index("ix_gangs_queue", "queue"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    attempt: Mapped[int]
    queue: Mapped[str] = mapped_column(String(80))
    wanted: Mapped[int]  # nodes, the first included
    count: Mapped[int | None]  # of nodes that train, once they are together
    token: Mapped[str] = mapped_column(String(64))  # by which their relays know one another
    work: Mapped[dict[str, Any]]  # {number (of the pass), key, model, device}: what they train
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class GangSeat(Base):
    """A worker's place in a gang."""

    __tablename__ = "gang_seats"

    job_id: Mapped[str] = mapped_column(ForeignKey("gangs.job_id", ondelete="CASCADE"), primary_key=True)
    worker_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    node: Mapped[int | None]  # once they are together
    address: Mapped[str | None] = mapped_column(String(300))  # host:port of its relay, once that listens
    lease_expires_at: Mapped[datetime]
    joined_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    left_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None]  # with which it left, if with one
