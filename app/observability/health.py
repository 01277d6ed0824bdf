"""Whether the service can work: each part asked at once, none for longer than a few seconds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import structlog
from pydantic import BaseModel
from sqlalchemy import text

from app.db import get_engine
from app.queue import ping_broker
from app.storage import get_storage

CHECK_SECONDS = 3.0

log = structlog.get_logger(__name__)


class PartHealth(BaseModel):
    """One part of the service; `problem` says what is wrong, in a word or two."""

    ok: bool
    problem: str | None = None


class Readiness(BaseModel):
    """Whether every part answers."""

    ready: bool
    database: PartHealth
    broker: PartHealth
    storage: PartHealth


def readiness() -> Readiness:
    """Ask database, broker and storage at the same time."""
    checks: dict[str, Callable[[], None]] = {
        "database": ping_database,
        "broker": ping_broker,
        "storage": lambda: get_storage().check(),
    }
    futures = {name: _threads().submit(check) for name, check in checks.items()}
    done, _ = wait(futures.values(), timeout=CHECK_SECONDS)
    parts = {}
    for name, future in futures.items():
        if future not in done:
            future.cancel()
            parts[name] = PartHealth(ok=False, problem=f"no answer in {CHECK_SECONDS:g} seconds")
        elif (error := future.exception()) is not None:
            log.warning("not_ready", part=name, error=str(error))
            parts[name] = PartHealth(ok=False, problem=type(error).__name__)  # details may hold passwords
        else:
            parts[name] = PartHealth(ok=True)
    return Readiness(ready=all(part.ok for part in parts.values()), **parts)


def ping_database() -> None:
    """Raises sqlalchemy.exc.OperationalError where the database does not answer or was not migrated."""
    with get_engine().connect() as connection:
        connection.execution_options(burnish_readonly=True).execute(text("SELECT id FROM projects LIMIT 1"))


@lru_cache
def _threads() -> ThreadPoolExecutor:
    # apart from the pool that serves requests, so that checks that hang cannot use that up
    return ThreadPoolExecutor(max_workers=6, thread_name_prefix="health")
