"""The seats of a job's gang given up, and how long workers sat there: that is paid for beside the job's own time."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db import db_now
from app.jobs.tables import Gang, GangSeat


def vacate(session: Session, job_id: str) -> float:
    """Let everybody go: the seconds of all who came to help, each until it left, or was to be heard of again."""
    if session.scalar(select(Gang.job_id).where(Gang.job_id == job_id)) is None:
        return 0.0
    now = session.scalars(select(db_now())).one()
    seats = session.execute(
        delete(GangSeat)
        .where(GangSeat.job_id == job_id)
        .returning(GangSeat.node, GangSeat.joined_at, GangSeat.left_at, GangSeat.lease_expires_at),
        execution_options={"synchronize_session": False},
    ).all()
    session.execute(
        delete(Gang).where(Gang.job_id == job_id), execution_options={"synchronize_session": False}
    )
    return sum(
        _seconds(seat.joined_at, min(seat.left_at or now, seat.lease_expires_at, now))
        for seat in seats
        if seat.node != 0
    )


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0)
