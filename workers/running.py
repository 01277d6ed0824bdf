"""What this worker process does now, and whether it is about to stop."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.config import get_settings
from app.ids import new_id

WORKER_ID = new_id("wrk")
HOST = get_settings().host_name or socket.gethostname()

stopping = threading.Event()  # set once the worker shuts down: nothing is claimed, every hold is given back

gpu_lost = threading.Event()  # why it stops, if it is that: whatever started it must do so again

trains_with_others = threading.Event()  # set where it takes part in trainings over several nodes

_lock = threading.Lock()
_attempts: dict[str, str] = {}  # folder of the attempt -> id of the job or upload


@contextmanager
def entered(attempt: str, subject_id: str) -> Iterator[None]:
    """While an attempt runs here."""
    with _lock:
        _attempts[attempt] = subject_id
    try:
        yield
    finally:
        with _lock:
            del _attempts[attempt]


def doing() -> list[str]:
    """The ids of the jobs and uploads that this worker works on."""
    with _lock:
        return sorted(set(_attempts.values()))


def attempts() -> set[str]:
    """The names of the scratch folders in use."""
    with _lock:
        return set(_attempts)
