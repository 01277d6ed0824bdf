"""Threads that do something again and again until the worker stops."""

import threading
from collections.abc import Callable

import structlog

from workers import running

log = structlog.get_logger(__name__)


def repeat(name: str, work: Callable[[], None], seconds: float) -> threading.Thread:
    """Do `work` now and then every `seconds`; whatever goes wrong is logged, and it is tried again at the next turn."""

    def loop() -> None:
        while True:
            try:
                work()
            except Exception:
                log.exception("loop_failed", loop=name)
            if running.stopping.wait(seconds):
                return

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    return thread
