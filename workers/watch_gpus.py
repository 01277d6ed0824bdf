"""A worker whose GPU falls away stops, giving its jobs back: what starts it anew finds out what the machine can still do."""

import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from workers import running
from workers.gpu import gpus

MISSED = 2  # looks in a row that do not find a GPU: the driver may be slow to answer once

log = structlog.get_logger(__name__)


class GpuWatch:
    """Looks for the GPUs that were there when the worker started."""

    def __init__(self, there: Iterable[Mapping[str, Any]]):
        self._there = {gpu["uuid"] for gpu in there}
        self._missed = 0

    def look(self) -> None:
        """Stop the worker where a GPU was not found twice in a row."""
        lost = self._there - {gpu["uuid"] for gpu in gpus()}
        self._missed = self._missed + 1 if lost else 0
        if self._missed >= MISSED:
            stop_for_lost(lost)


def stop_for_lost(uuids: Iterable[str]) -> None:
    """Let this worker stop as on SIGTERM; its exit status says that it must be started anew."""
    if not running.gpu_lost.is_set():
        log.error("gpu_lost", gpus=sorted(uuids))
        running.gpu_lost.set()
        running.stopping.set()
        os.kill(os.getpid(), signal.SIGTERM)
