"""Writing to a database that may be away for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db import transaction

AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")
log = structlog.get_logger(__name__)


def durably(work: Callable[[Session], T], give_up: Callable[[], bool]) -> T:
    """Do `work` in one transaction, again and again while the database is away and `give_up` says no.

    A commit whose answer was lost is done twice: `work` must be fenced, so that the second one changes nothing.

    Raises:
        OperationalError, InterfaceError, TimeoutError: it stayed away.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            with transaction() as session:
                return work(session)
        except AWAY as error:
            if give_up():
                raise
            log.warning("database_away", error=str(error).splitlines()[0], again_in_seconds=pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
