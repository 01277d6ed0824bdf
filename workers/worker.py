"""A worker: probes its machine, then serves queues until it is stopped."""

import json
import subprocess
import sys
from typing import Any

import structlog

from app.config import get_settings
from app.logs import configure_logging
from app.observability import tracing
from app.queue import INSPECT_QUEUE, queue_for
from workers import celery_app, running

PROBE_SECONDS = 300.0

log = structlog.get_logger(__name__)


def main(queues: list[str] | None, concurrency: int) -> int:
    """Serve `queues` (none given: inspections, and every runtime whose self-test passed) with `concurrency` threads."""
    configure_logging()
    tracing.start("worker")
    found = probe()
    for name, reason in found["failed"].items():
        log.warning("runtime_failed", runtime=name, reason=reason)
    queues = queues or [INSPECT_QUEUE, *(queue_for(name) for name in found["runtimes"])]
    celery = celery_app.make(queues, found)
    log.info("worker_starting", worker=running.WORKER_ID, queues=queues, concurrency=concurrency)
    celery.worker_main(
        [
            "--quiet",
            "worker",
            f"--concurrency={concurrency}",
            f"--queues={','.join(queues)}",
            f"--hostname={running.WORKER_ID}@{running.HOST}",
            f"--loglevel={get_settings().log_level}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    return 0


def probe() -> dict[str, Any]:
    """What this machine can do, asked in a child: a runtime that crashes takes no worker with it.

    Raises:
        subprocess.SubprocessError: the probe itself failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "workers", "probe"],
        stdout=subprocess.PIPE,
        timeout=PROBE_SECONDS,
        check=True,
        start_new_session=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
