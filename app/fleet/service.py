"""What workers say of themselves."""

import json
from typing import Any, Literal

from sqlalchemy import Text, case, cast, delete, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.config import get_settings
from app.db import db_now
from app.fleet.tables import DeviceLease, Worker
from app.jobs.tables import Job

Presence = Literal["online", "offline"]
# what a worker's `hardware` says besides the machine's
TRAINS_WITH_OTHERS = "trains_with_others"
HOROVOD = "horovod"  # its version


def register(
    session: Session,
    *,
    worker_id: str,
    host: str,
    pid: int,
    version: str,
    queues: list[str],
    runtimes: dict[str, Any],
    hardware: dict[str, Any],
    sandbox: dict[str, Any] | None = None,
) -> Worker:
    """Enter a worker that started; `runtimes` holds those whose self-test passed, name -> facts.

    It takes the place of the stopped workers of its host that served the same queues.
    """
    session.execute(
        delete(Worker).where(
            Worker.host == host,
            Worker.queues == queues,
            Worker.stopped_at.is_not(None),
            Worker.id != worker_id,
        ),
        execution_options={"synchronize_session": False},
    )
    worker = session.merge(
        Worker(
            id=worker_id,
            host=host,
            pid=pid,
            version=version,
            queues=queues,
            runtimes=runtimes,
            hardware=hardware,
            sandbox=sandbox,
            doing=[],
            last_seen_at=db_now(),
            stopped_at=None,
        )
    )
    session.flush()
    return worker


def heartbeat(session: Session, worker_id: str, doing: list[str]) -> bool:
    """Say that a worker lives and which jobs it runs. False: it is not entered (any more), it must register."""
    seen = session.scalar(
        update(Worker)
        .where(Worker.id == worker_id, Worker.stopped_at.is_(None))
        .values(last_seen_at=db_now(), doing=doing)
        .returning(Worker.id),
        execution_options={"synchronize_session": False},
    )
    return seen is not None


def stop(session: Session, worker_id: str) -> None:
    """Say that a worker stopped: it is offline at once."""
    session.execute(
        update(Worker).where(Worker.id == worker_id).values(stopped_at=db_now(), doing=[]),
        execution_options={"synchronize_session": False},
    )


def abandon(session: Session) -> None:
    """Every worker is gone, and measures on nothing."""
    session.execute(
        update(Worker).where(Worker.stopped_at.is_(None)).values(stopped_at=db_now(), doing=[]),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        update(DeviceLease).values(holder=None, expires_at=None),
        execution_options={"synchronize_session": False},
    )


def list_live(session: Session, seen_seconds: float) -> list[Worker]:
    """The workers that were heard of within `seen_seconds`, by host."""
    return list(session.scalars(select(Worker).where(_live(seen_seconds)).order_by(Worker.host, Worker.id)))


def served(session: Session, seen_seconds: float) -> dict[str, Presence]:
    """The queues that live workers serve, and those that others served before or that are served on demand (offline).

    A queue that is not among them was never served.
    """
    found: dict[str, Presence] = dict.fromkeys(get_settings().queues_on_demand, "offline")
    queues, live = cast(Worker.queues, Text), func.max(case((_live(seen_seconds), 1), else_=0))
    for text, online in session.execute(select(queues, live).group_by(queues)):
        for queue in json.loads(text):
            if online or queue not in found:
                found[queue] = "online" if online else "offline"
    return found


def processors(session: Session, queue: str) -> int | None:
    """The most processors that a worker of a queue has, online or not; None where one does not say, or none was seen."""
    rows = session.execute(select(Worker.queues, Worker.hardware))
    found = [hardware.get("cores") for queues, hardware in rows if queue in queues]
    return max(found, default=None) if None not in found else None


def differs(
    session: Session,
    queue: str,
    version: str,
    cores: int,
    seen_seconds: float,
    has_horovod: bool | None = None,
) -> bool:
    """Whether a live worker of a queue can do what one of this version with so many processors cannot.

    `has_horovod`: whether that one does, where it is needed; None where it is not.
    """
    others = [worker for worker in list_live(session, seen_seconds) if queue in worker.queues]
    if has_horovod is not None:
        others = [worker for worker in others if worker.hardware.get(HOROVOD)]
        if not has_horovod:
            return bool(others)
    return any(worker.version != version or worker.hardware.get("cores", 0) > cores for worker in others)


def has_horovod(session: Session, queue: str) -> bool:
    """Whether a worker of a queue, online or not, has Horovod; true too where the queue is served on demand, and none was seen."""
    rows = session.execute(select(Worker.queues, Worker.hardware))
    found = [bool(hardware.get(HOROVOD)) for queues, hardware in rows if queue in queues]
    return any(found) or not found


def count_trainers(session: Session, queue: str, seen_seconds: float, horovod: bool = False) -> int:
    """How many live workers of a queue take part in trainings over several nodes; with `horovod`, those that have it."""
    needed = {TRAINS_WITH_OTHERS, *([HOROVOD] if horovod else [])}
    return sum(
        queue in worker.queues and all(worker.hardware.get(name) for name in needed)
        for worker in list_live(session, seen_seconds)
    )


def jobs_of_project(session: Session, project_id: str, job_ids: set[str]) -> set[str]:
    """Those of some jobs that belong to a project."""
    query = select(Job.id).where(Job.project_id == project_id, Job.id.in_(job_ids))
    return set(session.scalars(query))


def _live(seen_seconds: float) -> ColumnElement[bool]:
    return Worker.stopped_at.is_(None) & (Worker.last_seen_at >= db_now(-seen_seconds))
