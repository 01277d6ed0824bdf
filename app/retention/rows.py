"""Rows that are of no use after a while: remembered requests, old events, deliveries, audit entries, leases of lost hosts."""

from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, and_, delete, func, inspect, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.audit.tables import AuditEntry
from app.auth.tables import IdempotencyKey
from app.config import get_settings
from app.db import Base, db_now, transaction
from app.events.tables import Event
from app.fleet.tables import DeviceLease, Worker
from app.jobs.tables import Job
from app.retention.jobs import DAY_SECONDS
from app.webhooks.tables import WebhookDelivery

JOBS_AT_ONCE = 500
ROWS_AT_ONCE = 5000  # so that no statement takes long


@dataclass(frozen=True)
class Kind:
    """Rows of a table that are old enough."""

    name: str
    table: type[Base]
    old: ColumnElement[bool]


def kinds() -> list[Kind]:
    """What is old by today's settings; 0 days: nothing is."""
    settings = get_settings()
    found = [
        Kind(
            "idempotency_keys",
            IdempotencyKey,
            IdempotencyKey.created_at < db_now(-settings.idempotency_hours * 3600),
        ),
        Kind(
            "device_leases",
            DeviceLease,
            and_(
                ~select(Worker.id).where(Worker.host == DeviceLease.host).exists(),
                or_(DeviceLease.expires_at.is_(None), DeviceLease.expires_at < db_now()),
            ),
        ),
    ]
    if days := settings.keep_audit_days:
        old = AuditEntry.created_at < db_now(-days * DAY_SECONDS)
        found.append(Kind("audit_entries", AuditEntry, old))
    if days := settings.keep_deliveries_days:
        old = WebhookDelivery.created_at < db_now(-days * DAY_SECONDS)
        found.append(
            Kind("webhook_deliveries", WebhookDelivery, and_(WebhookDelivery.status != "waiting", old))
        )
    return found


def remove(kind: Kind, *, dry_run: bool) -> int:
    """Delete rows of a kind, or only count them; how many."""
    if dry_run:
        with transaction(readonly=True) as session:
            return session.scalar(select(func.count()).select_from(kind.table).where(kind.old)) or 0
    count = 0
    key = inspect(kind.table).primary_key
    some = select(*key).where(kind.old).limit(ROWS_AT_ONCE)
    while True:
        with transaction() as session:
            statement = delete(kind.table).where(tuple_(*key).in_(some))
            done = session.execute(statement, execution_options={"synchronize_session": False})
        count += cast(CursorResult[Any], done).rowcount
        if cast(CursorResult[Any], done).rowcount < ROWS_AT_ONCE:
            return count


def remove_events(*, dry_run: bool) -> int:
    """Delete the events of jobs that ended `BURNISH_KEEP_EVENTS_DAYS` ago, all but each one's last; how many."""
    days = get_settings().keep_events_days
    count, after = 0, ""
    while days:
        with transaction(readonly=dry_run) as session:
            jobs = _with_events(session, days, after)
            if not jobs:
                break
            last = aliased(Event)
            newest = select(func.max(last.seq)).where(last.subject_id == Event.subject_id).scalar_subquery()
            old = and_(Event.subject_id.in_(jobs), Event.seq < newest)
            count += session.scalar(select(func.count()).select_from(Event).where(old)) or 0
            if not dry_run:
                session.execute(delete(Event).where(old), execution_options={"synchronize_session": False})
        after = jobs[-1]
    return count


def _with_events(session: Session, days: int, after: str) -> list[str]:
    """The next jobs whose first event is still there."""
    query = (
        select(Job.id)
        .where(
            Job.id > after,
            Job.finished_at < db_now(-days * DAY_SECONDS),
            select(Event.seq).where(Event.subject_id == Job.id, Event.seq == 1).exists(),
        )
        .order_by(Job.id)
        .limit(JOBS_AT_ONCE)
    )
    return list(session.scalars(query))
