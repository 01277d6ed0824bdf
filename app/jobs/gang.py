"""The workers that train one network together: gathered by the attempt of one job, which holds the first place.

Of the jobs of a queue that gather, only the oldest is given workers: two that each have a half would wait for each other.
A gang is as good as its attempt: where that is not held any more, nobody belongs to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.catalog.pass_params.training import trains_by_horovod
from app.db import db_now
from app.jobs import lease
from app.jobs.seats import vacate
from app.jobs.status import JobStatus
from app.jobs.tables import Gang, GangSeat, Job
from app.queue import send_job


@dataclass(frozen=True)
class Place:
    """A worker's place in the gang of an attempt."""

    job_id: str
    attempt: int
    project_id: str
    worker_id: str
    token: str
    work: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """How far a gang is: its seats whose relays listen; `first`: no older one of the queue gathers."""

    first: bool
    seats: int


@dataclass(frozen=True)
class Together:
    """A gang that trains, as one of its nodes sees it: addresses by node."""

    node: int
    addresses: dict[int, str]


def nodes_of(request: Mapping[str, Any]) -> int:
    """On how many nodes a request's recipe trains at most."""
    return max((_nodes(params) for params in _params(request)), default=1)


def _nodes(params: Mapping[str, Any]) -> int:
    distributed = params.get("distributed")
    return int(distributed.get("nodes", 1)) if isinstance(distributed, dict) else 1


def needs_horovod(request: Mapping[str, Any]) -> bool:
    """Whether a pass of a request's recipe trains by Horovod, where it trains in several processes."""
    return any(trains_by_horovod(params) for params in _params(request))


def _params(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [step.get("params", {}) for step in request.get("recipe", {}).get("passes", ())]


def gathering(session: Session, queue: str) -> Gang | None:
    """The gang of a queue whose turn it is to be given workers."""
    query = (
        select(Gang)
        .join(Job, Job.id == Gang.job_id)
        .where(Gang.queue == queue, Gang.count.is_(None))
        .where(Job.status == JobStatus.RUNNING, Job.attempt == Gang.attempt, Job.lease_expires_at > db_now())
        .order_by(Job.created_at, Job.id)
        .limit(1)
    )
    return session.scalar(query, execution_options={"populate_existing": True})


def open_gang(
    session: Session,
    job_id: str,
    attempt: int,
    *,
    wanted: int,
    token: str,
    address: str,
    work: dict[str, Any],
    lease_seconds: float,
) -> bool:
    """Begin to gather; the first seat is the holder's own. False where the hold is lost."""
    job = lease.hold(session, job_id, attempt)
    if job is None or job.worker_id is None:
        return False
    close(session, job_id)
    common = {"job_id": job_id, "project_id": job.project_id}
    session.add(Gang(**common, attempt=attempt, queue=job.queue, wanted=wanted, token=token, work=work))
    session.flush()
    session.add(
        GangSeat(
            **common, worker_id=job.worker_id, node=0, address=address, lease_expires_at=db_now(lease_seconds)
        )
    )
    return True


def standing(session: Session, job_id: str, attempt: int, lease_seconds: float) -> Standing | None:
    """How far a gang is that still gathers; None where the hold is lost."""
    job = lease.hold(session, job_id, attempt)
    if job is None:
        return None
    session.execute(
        update(GangSeat)
        .where(GangSeat.job_id == job_id, GangSeat.node == 0)
        .values(lease_expires_at=db_now(lease_seconds))
    )
    turn = gathering(session, job.queue)
    return Standing(turn is not None and turn.job_id == job_id, len(_there(session, job_id)))


def ring(session: Session, job_id: str, queue: str, times: int) -> None:
    """Send messages for those who are missing: any message of the queue brings a worker."""
    for _ in range(times):
        send_job(session, job_id, queue)


def join(
    session: Session,
    rung: str,
    worker_id: str,
    lease_seconds: float,
    able: Callable[[Mapping[str, Any]], bool],
) -> Place | None:
    """Take a place in the gang that gathers in the queue of the job that was rung for; None where there is none to take.

    `able`: whether this worker could do a request.
    """
    found = session.execute(select(Job.queue, Job.status).where(Job.id == rung)).one_or_none()
    gang = gathering(session, found.queue) if found is not None else None
    if found is None or gang is None:
        return None
    if not able(session.scalars(select(Job.request).where(Job.id == gang.job_id)).one()):
        return None
    session.execute(select(Gang.job_id).where(Gang.job_id == gang.job_id).with_for_update())
    session.refresh(gang)
    seats = list(session.scalars(select(GangSeat).where(GangSeat.job_id == gang.job_id)))
    alive = _alive(session, gang.job_id)
    taken = [seat for seat in seats if seat.worker_id in alive]
    if gang.count is not None or len(taken) >= gang.wanted or worker_id in {seat.worker_id for seat in taken}:
        return None
    session.execute(delete(GangSeat).where(GangSeat.job_id == gang.job_id, GangSeat.worker_id == worker_id))
    session.add(
        GangSeat(
            job_id=gang.job_id,
            worker_id=worker_id,
            project_id=gang.project_id,
            lease_expires_at=db_now(lease_seconds),
        )
    )
    if found.status == JobStatus.QUEUED:
        send_job(session, rung, found.queue)  # its message brought a worker that does something else now
    return Place(gang.job_id, gang.attempt, gang.project_id, worker_id, gang.token, gang.work)


def listen(session: Session, place: Place, address: str) -> bool:
    """Say where the relay of a place listens. False where the place is gone."""
    return _write(session, place, address=address)


def renew(session: Session, place: Place, lease_seconds: float) -> bool:
    """Hold on to a place. False where it is gone."""
    return held(session, place) and _write(session, place, lease_expires_at=db_now(lease_seconds))


def held(session: Session, place: Place) -> bool:
    """Whether a place is there still, and the attempt that it belongs to goes on."""
    query = (
        select(GangSeat.worker_id)
        .join(Gang, Gang.job_id == GangSeat.job_id)
        .join(Job, Job.id == Gang.job_id)
        .where(GangSeat.job_id == place.job_id, GangSeat.worker_id == place.worker_id)
        .where(GangSeat.left_at.is_(None), Job.status == JobStatus.RUNNING)
        .where(Gang.attempt == place.attempt, Job.attempt == place.attempt)
    )
    return session.scalar(query) is not None


def together(session: Session, place: Place) -> Together | None:
    """A place's gang, once it is together."""
    rows = session.execute(
        select(GangSeat.worker_id, GangSeat.node, GangSeat.address)
        .join(Gang, Gang.job_id == GangSeat.job_id)
        .where(GangSeat.job_id == place.job_id, Gang.attempt == place.attempt, Gang.count.is_not(None))
    ).all()
    own = next((row.node for row in rows if row.worker_id == place.worker_id), None)
    return None if own is None else Together(own, {row.node: row.address for row in rows})


def begin(session: Session, job_id: str, attempt: int, count: int) -> dict[int, str] | None:
    """Let the first `count` of those who are there train: their addresses by node. The others' places are gone.

    None where the hold is lost, {} where there are not so many any more.
    """
    job = lease.hold(session, job_id, attempt)
    if job is None:
        return None
    session.execute(select(Gang.job_id).where(Gang.job_id == job_id).with_for_update())
    there = _there(session, job_id)
    if len(there) < count:
        return {}
    for node, seat in enumerate(there[:count]):
        seat.node = node
    session.execute(
        delete(GangSeat).where(
            GangSeat.job_id == job_id, GangSeat.worker_id.not_in([seat.worker_id for seat in there[:count]])
        ),
        execution_options={"synchronize_session": False},
    )
    session.execute(update(Gang).where(Gang.job_id == job_id).values(count=count))
    session.execute(update(Job).where(Job.id == job_id).values(gathered=0))
    return {node: seat.address or "" for node, seat in enumerate(there[:count])}


def leave(session: Session, place: Place, problem: dict[str, Any] | None) -> None:
    """Give a place back: what it was taken for is done, or has failed."""
    _write(session, place, left_at=db_now(), problem=problem)


def lost(session: Session, job_id: str) -> list[int]:
    """The nodes of a gang that trains which were not heard of any more."""
    query = select(GangSeat.node).where(
        GangSeat.job_id == job_id,
        GangSeat.node > 0,
        GangSeat.left_at.is_(None),
        GangSeat.lease_expires_at < db_now(),
    )
    return sorted(node for node in session.scalars(query) if node is not None)


def problems(session: Session, job_id: str) -> tuple[list[dict[str, Any]], bool]:
    """What the other nodes left with, and whether some are there still."""
    seats = list(
        session.scalars(
            select(GangSeat).where(GangSeat.job_id == job_id, GangSeat.node > 0),
            execution_options={"populate_existing": True},
        )
    )
    return [seat.problem for seat in seats if seat.problem is not None], any(
        seat.left_at is None for seat in seats
    )


def close(session: Session, job_id: str) -> None:
    """Let everybody go, and count their time to the job's."""
    if seconds := vacate(session, job_id):
        session.execute(
            update(Job).where(Job.id == job_id).values(nodes_seconds=Job.nodes_seconds + seconds),
            execution_options={"synchronize_session": False},
        )


def close_of(session: Session, job_id: str, attempt: int) -> None:
    """Let everybody go, unless a later attempt gathers by now."""
    if session.scalar(select(Gang.attempt).where(Gang.job_id == job_id)) == attempt:
        close(session, job_id)


def _there(session: Session, job_id: str) -> list[GangSeat]:
    """Seats whose relays listen, the first node's first."""
    query = (
        select(GangSeat)
        .where(GangSeat.job_id == job_id, GangSeat.address.is_not(None), GangSeat.left_at.is_(None))
        .where(GangSeat.lease_expires_at > db_now())
        .order_by(GangSeat.node.asc().nulls_last(), GangSeat.joined_at, GangSeat.worker_id)
    )
    return list(session.scalars(query, execution_options={"populate_existing": True}))


def _alive(session: Session, job_id: str) -> set[str]:
    query = select(GangSeat.worker_id).where(
        GangSeat.job_id == job_id, GangSeat.left_at.is_(None), GangSeat.lease_expires_at > db_now()
    )
    return set(session.scalars(query))


def _write(session: Session, place: Place, **values: Any) -> bool:
    gang = select(Gang.job_id).where(Gang.job_id == place.job_id, Gang.attempt == place.attempt)
    found = session.scalar(
        update(GangSeat)
        .where(GangSeat.job_id.in_(gang), GangSeat.worker_id == place.worker_id)
        .values(**values)
        .returning(GangSeat.worker_id),
        execution_options={"synchronize_session": False},
    )
    return found is not None
