"""Messages to the workers: the only file on this side that knows Celery. A message holds an id alone."""

import socket
from functools import lru_cache
from typing import Any

from celery import Celery
from sqlalchemy.orm import Session

from app.config import get_settings
from app.db import after_commit

RUN_JOB = "burnish.run_job"
INSPECT = "burnish.inspect"
INSPECT_QUEUE = "inspect"


@lru_cache
def get_celery() -> Celery:
    """The Celery application, for sending and (in `workers.celery_app`) for serving."""
    celery = Celery("burnish", broker=get_settings().redis_url, set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport_options(),
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.2},
        task_create_missing_queues=True,
    )
    return celery


def _transport_options() -> dict[str, Any]:
    """A broker that went away in silence is found out in seconds: by its acknowledgements, and by what it does not answer."""
    keepalive = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
    return {
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in keepalive.items() if hasattr(socket, name)
        },
        "health_check_interval": 10,
    }


def queue_for(runtime: str, compute_capability: int | None = None) -> str:
    """The queue of a capability: one for each runtime, and one for each kind of GPU that it runs on (89 is 8.9)."""
    return f"runtime.{runtime}" + ("" if compute_capability is None else f".sm{compute_capability}")


def send_job(session: Session, job_id: str, queue: str) -> None:
    """Ring for a job once the transaction is committed."""
    after_commit(session, lambda: _send(RUN_JOB, job_id, queue))


def send_inspect(session: Session, subject_id: str) -> None:
    """Ring for the inspection of an uploaded model or dataset (`mdl_…`, `dat_…`) once the transaction is committed."""
    after_commit(session, lambda: _send(INSPECT, subject_id, INSPECT_QUEUE))


def _send(task: str, subject_id: str, queue: str) -> None:
    get_celery().send_task(task, args=[subject_id], queue=queue)


def queue_depth(queue: str) -> int:
    """Messages that wait in a queue.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    with get_celery().connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        return int(connection.default_channel.client.llen(queue))


def ping_broker() -> None:
    """Raises kombu.exceptions.OperationalError where the broker does not answer."""
    with get_celery().connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        connection.default_channel.client.ping()
