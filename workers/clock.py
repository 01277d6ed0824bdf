"""The database's clock rules, so its jumps must be noticed: they end no lease that its holder could not renew meanwhile."""

import time

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.db import db_now

log = structlog.get_logger(__name__)


class DatabaseClock:
    """Compares the database's clock with this process's monotonic one, which no one sets and which stops in suspended machines."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._unsteady_until = 0.0

    def steady(self, session: Session) -> bool:
        """Whether the clock did not jump within the time of a lease; asked again and again, it sees a jump once."""
        lease_seconds = get_settings().lease_seconds
        now = session.execute(select(db_now())).scalar_one()
        offset = now.timestamp() - time.monotonic()
        if self._offset is not None and abs(offset - self._offset) > lease_seconds / 2:
            log.warning("database_clock_jumped", seconds=round(offset - self._offset, 1))
            self._unsteady_until = time.monotonic() + lease_seconds
        self._offset = offset
        return time.monotonic() >= self._unsteady_until
