"""The Celery worker: JSON only, a thread for each task, one message at a time for each thread."""

import os
from typing import Any

import structlog
from celery import Celery, signals
from kombu.asynchronous import get_event_loop

import app
from app.config import get_settings
from app.db import transaction
from app.fleet import service as fleet
from app.logs import configure_logging
from app.queue import get_celery
from workers import horovod_library, running, sweep, tasks
from workers.loops import repeat
from workers.watch_gpus import GpuWatch

COUNTED_SECONDS = 0.02
NETWORK_OF_ITS_OWN = "namespace"  # as the sandbox's report has it

log = structlog.get_logger(__name__)


def make(queues: list[str], found: dict[str, Any]) -> Celery:
    """The application with its tasks and hooks; `found` is what the probe says of this machine."""
    celery = get_celery()
    celery.conf.update(
        worker_pool="threads",
        worker_disable_prefetch=True,  # a waiting message stays where another worker can take it
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        broker_connection_max_retries=None,
    )
    tasks.register(celery)
    if get_settings().train_address:
        _train_with_others(found["sandbox"])

    def register() -> None:
        with transaction() as session:
            fleet.register(
                session,
                worker_id=running.WORKER_ID,
                host=running.HOST,
                pid=os.getpid(),
                version=app.__version__,
                queues=queues,
                runtimes=found["runtimes"],
                hardware={
                    **found["hardware"],
                    fleet.TRAINS_WITH_OTHERS: running.trains_with_others.is_set(),
                    fleet.HOROVOD: horovod_library.version(),
                },
                sandbox=found["sandbox"],
            )

    def heartbeat() -> None:
        with transaction() as session:
            known = fleet.heartbeat(session, running.WORKER_ID, running.doing())
        if not known:
            register()

    threads: list[Any] = []

    def ready(**_: Any) -> None:
        """Called again after every reconnection to the broker."""
        if not threads:
            settings = get_settings()
            threads.append(repeat("heartbeat", heartbeat, settings.heartbeat_seconds))
            threads.append(repeat("sweep", sweep.sweep, settings.sweep_seconds))
            if found["hardware"]["gpus"]:
                watching = GpuWatch(found["hardware"]["gpus"])
                threads.append(repeat("gpus", watching.look, settings.heartbeat_seconds))

    def shutting_down(**_: Any) -> None:
        running.stopping.set()

    def shut_down(**_: Any) -> None:
        for thread in threads:
            thread.join(timeout=5)
        with transaction() as session:
            fleet.stop(session, running.WORKER_ID)
        log.info("worker_stopped", worker=running.WORKER_ID)

    def look_again(**_: Any) -> None:
        """A free thread takes the next message at once: by itself, Celery's loop looks for one only once a second."""
        hub: Any = get_event_loop()
        if hub is not None:  # the task is counted as done shortly after this signal
            hub.call_soon(hub.call_later, COUNTED_SECONDS, lambda: None)

    signals.setup_logging.connect(lambda **_: configure_logging(), weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.worker_shutdown.connect(shut_down, weak=False)
    signals.task_postrun.connect(look_again, weak=False)
    return celery


def _train_with_others(sandbox: dict[str, Any]) -> None:
    if sandbox.get("network") == NETWORK_OF_ITS_OWN:
        running.trains_with_others.set()
    else:
        log.error(
            "trains_alone",
            why="jobs have no network namespaces here, so BURNISH_TRAIN_ADDRESS is of no use",
            hint="docs/security.md says how to let the kernel help",
        )
