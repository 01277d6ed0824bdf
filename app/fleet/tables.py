"""Workers, and the leases on the devices that they measure on. Both belong to the installation, not to a project."""

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, db_now


class Worker(Base):
    """What a worker process says of itself, renewed by its heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(40))
    queues: Mapped[list[str]]
    runtimes: Mapped[dict[str, Any]]  # name -> {version, devices, …}; only those whose self-test passed
    hardware: Mapped[dict[str, Any]]
    sandbox: Mapped[dict[str, Any] | None]  # what holds its children, by wall (`workers/sandbox/report.py`)
    doing: Mapped[list[str]]  # ids of the jobs that it runs
    started_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    last_seen_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    stopped_at: Mapped[datetime | None]


class DeviceLease(Base):
    """Who measures on a device now: two at once would measure each other."""

    __tablename__ = "device_leases"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    device: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str | None] = mapped_column(String(60))  # "job_id/attempt"
    expires_at: Mapped[datetime | None]
