"""Messages to webhooks, written in the transaction of what they tell of, so that both happen or neither."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.http.schemas import rfc3339
from app.ids import new_id
from app.jobs.tables import Job
from app.webhooks.tables import Webhook, WebhookDelivery

JOB_FINISHED = "job.finished"
TEST = "webhook.test"
WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"


def job_ended(session: Session, job: Job) -> None:
    """Tell every webhook of the project that a job has ended; its row is as it will be committed."""
    webhooks = list(session.scalars(select(Webhook.id).where(Webhook.project_id == job.project_id)))
    for webhook_id in webhooks:
        add(session, job.project_id, webhook_id, JOB_FINISHED, describe(job), job_id=job.id)


def add(
    session: Session,
    project_id: str,
    webhook_id: str,
    type_: str,
    data: dict[str, Any],
    *,
    job_id: str | None = None,
) -> WebhookDelivery:
    """Put a message on the way to one webhook. Its id goes with every attempt: a receiver knows by it what it has seen."""
    delivery = WebhookDelivery(
        id=new_id("msg"),
        project_id=project_id,
        webhook_id=webhook_id,
        job_id=job_id,
        type=type_,
        payload=data,
        status=WAITING,
    )
    session.add(delivery)
    session.flush()
    return delivery


def describe(job: Job) -> dict[str, Any]:
    """What a message says of an ended job: enough to decide whether to ask for the rest."""

    def time(column: str) -> str | None:
        value = getattr(job, column)
        return None if value is None else rfc3339(value)

    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "labels": job.labels,
        "status": job.status,
        "problem_code": (job.problem or {}).get("code"),
        "subject": job.subject,
        "parent": job.parent_id,
        "created_at": time("created_at"),
        "started_at": time("started_at"),
        "finished_at": time("finished_at"),
        "url": f"{get_settings().public_url.rstrip('/')}/v1/jobs/{job.id}",
    }
