"""Leases on devices: who measures alone on a device of a host. A lease that is not renewed ends by itself."""

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.db import db_now, upsert
from app.fleet.tables import DeviceLease


def acquire(session: Session, host: str, device: str, holder: str, seconds: float) -> bool:
    """Take a device for `seconds` if it is free, if its lease is over, or if it is this holder's already."""
    insert = upsert(session, DeviceLease).values(
        host=host, device=device, holder=holder, expires_at=db_now(seconds)
    )
    statement = insert.on_conflict_do_update(
        index_elements=[DeviceLease.host, DeviceLease.device],
        set_={"holder": holder, "expires_at": db_now(seconds)},
        where=or_(
            DeviceLease.holder.is_(None), DeviceLease.holder == holder, DeviceLease.expires_at < db_now()
        ),
    ).returning(DeviceLease.holder)
    return session.scalar(statement, execution_options={"populate_existing": True}) is not None


def renew(session: Session, host: str, device: str, holder: str, seconds: float) -> bool:
    """Hold a device for `seconds` from now; False where somebody else took it after the lease ran out."""
    statement = (
        update(DeviceLease)
        .where(*_held(host, device, holder))
        .values(expires_at=db_now(seconds))
        .returning(DeviceLease.holder)
    )
    return session.scalar(statement, execution_options={"synchronize_session": False}) is not None


def release(session: Session, host: str, device: str, holder: str) -> None:
    """Give a device back; nothing happens where somebody else holds it."""
    session.execute(
        update(DeviceLease).where(*_held(host, device, holder)).values(holder=None, expires_at=None),
        execution_options={"synchronize_session": False},
    )


def leased(session: Session, host: str) -> set[str]:
    """The devices of a host that somebody measures on."""
    held = DeviceLease.holder.is_not(None), DeviceLease.expires_at >= db_now()
    return set(session.scalars(select(DeviceLease.device).where(DeviceLease.host == host, *held)))


def _held(host: str, device: str, holder: str) -> tuple[ColumnElement[bool], ...]:
    return DeviceLease.host == host, DeviceLease.device == device, DeviceLease.holder == holder
