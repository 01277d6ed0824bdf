"""A worker: probes its machine, then serves queues until it is stopped."""

import json
import subprocess
import sys
from typing import Any

import structlog

from app.catalog.compute_capability import number_of
from app.catalog.runtimes import RUNTIMES
from app.config import get_settings
from app.db import bound_waits
from app.logs import configure_logging
from app.observability import tracing
from app.queue import INSPECT_QUEUE, queue_for
from workers import celery_app, running
from workers.offered import offered
from workers.sandbox import privileges
from workers.sandbox.report import lacking, warnings

PROBE_SECONDS = 300.0

log = structlog.get_logger(__name__)


def main(queues: list[str] | None, concurrency: int) -> int:
    """Serve `queues` with `concurrency` threads; none given: inspections, and every runtime whose self-test passed.

    The queue of a runtime brings those of the GPUs here. Queues that the machine cannot serve are left out. The exit status is 1 where it cannot start, and where it stopped because a GPU fell away: start it anew.
    """
    configure_logging()
    bound_waits()
    tracing.start("worker")
    try:
        found = probe(wanted(queues))
    except ValueError as error:
        log.error("no_such_runtime", error=str(error))
        return 1
    for name, reason in found["failed"].items():
        log.warning("runtime_failed", runtime=name, reason=reason)
    for wall, meaning in warnings(found["sandbox"]).items():
        log.warning("sandbox_lacks", wall=wall, meaning=meaning)
    if get_settings().require_sandbox and (missing := lacking(found["sandbox"])):
        log.error(
            "sandbox_required", missing=missing, hint="docs/security.md says how to let the kernel help"
        )
        return 1
    privileges.close_memory()
    can = [INSPECT_QUEUE, *capabilities(found)]
    if absent := [name for name in queues or [] if name not in can]:
        log.error(
            "queues_not_served",
            queues=absent,
            hint="this machine has no working runtime, or no GPU, for them",
        )
    queues = [name for name in can if not queues or name in queues or name.rpartition(".sm")[0] in queues]
    if not queues:
        return 1
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
    return 1 if running.gpu_lost.is_set() else 0


def wanted(queues: list[str] | None) -> list[str]:
    """The runtimes to try: those offered here that the queues need. Raises ValueError as `offered`."""
    plain = {queue.rpartition(".sm")[0] or queue for queue in queues or []}
    return [name for name in offered() if not queues or queue_for(name) in plain]


def capabilities(found: dict[str, Any]) -> list[str]:
    """The queues of what the probe found: one for each runtime, and for runtimes on GPUs one for each kind of them here."""
    kinds = sorted({number_of(gpu["compute_capability"]) for gpu in found["hardware"]["gpus"]})
    return [
        queue_for(name, kind)
        for name in found["runtimes"]
        for kind in (None, *(kinds if RUNTIMES[name].device == "cuda" else ()))
    ]


def probe(names: list[str]) -> dict[str, Any]:
    """What this machine can do, with these runtimes, asked in a child: a runtime that crashes takes no worker with it.

    Raises:
        subprocess.SubprocessError: the probe itself failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "workers", "probe", "--runtimes", ",".join(names)],
        stdout=subprocess.PIPE,
        timeout=PROBE_SECONDS,
        check=True,
        start_new_session=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
