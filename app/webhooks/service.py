"""Webhooks: made, listed, deleted; and their messages: claimed for an attempt, settled after it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.audit.service import record
from app.config import get_settings
from app.db import db_now
from app.errors import Conflict, InvalidParams, NotFound
from app.http.paging import PageQuery, paginate
from app.ids import new_id
from app.webhooks import outbox, retries
from app.webhooks.addresses import Allowed, literal
from app.webhooks.outbox import DELIVERED, GIVEN_UP, WAITING
from app.webhooks.signing import new_secret
from app.webhooks.tables import Webhook, WebhookDelivery
from app.webhooks.transport import TOTAL_SECONDS, Outcome

MOST_WEBHOOKS = 20  # of a project
GONE = 410  # by the specification: stop
AT_ONCE = 4  # attempts for one webhook at a time: a slow receiver leaves room for the others
LOST_SECONDS = 2 * TOTAL_SECONDS  # an attempt that was not settled by then died with its process


@dataclass(frozen=True)
class Attempt:
    """A message that this process is to send now."""

    delivery_id: str
    webhook_id: str
    number: int
    url: str
    secret: str
    type: str
    created_at: datetime
    payload: dict[str, Any]


def create(session: Session, project_id: str, url: str) -> Webhook:
    """A new webhook; its secret is in the row.

    Raises:
        InvalidParams: the address is none that may be called.
        Conflict: the project has as many as it may have.
    """
    _check(url)
    count = select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)
    if (session.scalar(count) or 0) >= MOST_WEBHOOKS:
        raise Conflict(
            f"a project has at most {MOST_WEBHOOKS} webhooks", hint="delete one that is not needed"
        )
    webhook = Webhook(id=new_id("whk"), project_id=project_id, url=url, secret=new_secret())
    session.add(webhook)
    session.flush()
    record(session, project_id, "webhook.created", webhook.id, host=httpx.URL(url).host)
    return webhook


def find(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """A webhook of the project.

    Raises:
        NotFound: the project has none with this id.
    """
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    webhook = session.scalar(query)
    if webhook is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return webhook


def page_of(session: Session, project_id: str, page: PageQuery) -> tuple[list[Webhook], str | None]:
    """A page of the project's webhooks, newest first."""
    return paginate(session, select(Webhook).where(Webhook.project_id == project_id), Webhook, page)


def remove(session: Session, project_id: str, webhook_id: str) -> None:
    """Delete a webhook with its messages, those too that wait.

    Raises:
        NotFound: the project has none with this id.
    """
    webhook = find(session, project_id, webhook_id)
    record(session, project_id, "webhook.deleted", webhook_id, host=httpx.URL(webhook.url).host)
    session.execute(
        delete(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id),
        execution_options={"synchronize_session": False},
    )


def send_test(session: Session, project_id: str, webhook_id: str) -> WebhookDelivery:
    """Put a message on the way that tells of nothing.

    Raises:
        NotFound: the project has none with this id.
    """
    find(session, project_id, webhook_id)
    delivery = outbox.add(session, project_id, webhook_id, outbox.TEST, {"webhook": webhook_id})
    record(session, project_id, "webhook.tested", webhook_id)
    session.refresh(delivery)
    return delivery


def deliveries(
    session: Session, project_id: str, webhook_id: str, page: PageQuery
) -> tuple[list[WebhookDelivery], str | None]:
    """A page of a webhook's messages, newest first.

    Raises:
        NotFound: the project has none with this id.
    """
    find(session, project_id, webhook_id)
    query = select(WebhookDelivery).where(
        WebhookDelivery.project_id == project_id, WebhookDelivery.webhook_id == webhook_id
    )
    return paginate(session, query, WebhookDelivery, page)


def anything_due(session: Session) -> bool:
    """Whether a message waits for its attempt."""
    due = select(WebhookDelivery.id).where(
        WebhookDelivery.status == WAITING, WebhookDelivery.due_at <= db_now()
    )
    return session.scalar(due.limit(1)) is not None


def claim(session: Session, most: int, busy: dict[str, int]) -> list[Attempt]:
    """Take messages that are due, at most `AT_ONCE` of a webhook, of which `busy` says how many this process sends already.

    One statement takes them: of several processes that look at once, each message goes to one. It is theirs until they
    settle it, or until `LOST_SECONDS` are over.
    """
    turn = func.row_number().over(partition_by=WebhookDelivery.webhook_id, order_by=WebhookDelivery.due_at)
    due = (
        select(WebhookDelivery.id, WebhookDelivery.due_at, turn.label("turn"))
        .where(
            WebhookDelivery.status == WAITING,
            WebhookDelivery.due_at <= db_now(),
            WebhookDelivery.webhook_id.not_in([id_ for id_, count in busy.items() if count >= AT_ONCE]),
        )
        .subquery()
    )
    taken = select(due.c.id).where(due.c.turn <= AT_ONCE).order_by(due.c.turn, due.c.due_at).limit(most)
    rows = session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id.in_(taken),
            WebhookDelivery.status == WAITING,
            WebhookDelivery.due_at <= db_now(),
        )
        .values(attempts=WebhookDelivery.attempts + 1, due_at=db_now(LOST_SECONDS))
        .returning(WebhookDelivery),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).scalars()
    claimed = list(rows)
    webhooks = {
        webhook.id: webhook
        for webhook in session.scalars(
            select(Webhook).where(Webhook.id.in_({row.webhook_id for row in claimed}))
        )
    }
    return [
        Attempt(
            row.id,
            row.webhook_id,
            row.attempts,
            webhook.url,
            webhook.secret,
            row.type,
            row.created_at,
            row.payload,
        )
        for row in claimed
        if (webhook := webhooks.get(row.webhook_id)) is not None
    ]


def settle(session: Session, attempt: Attempt, outcome: Outcome) -> None:
    """Write down what came of an attempt; nothing, where it took so long that another one was begun."""
    said: dict[str, Any] = {"answer_status": outcome.status, "problem": outcome.problem}
    pause = retries.pause_seconds(attempt.number)
    if outcome.problem is None:
        said |= {"status": DELIVERED, "delivered_at": db_now()}
    elif pause is None or outcome.status == GONE:
        said |= {"status": GIVEN_UP}
    else:
        said |= {"due_at": db_now(pause)}
    session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == attempt.delivery_id,
            WebhookDelivery.attempts == attempt.number,
            WebhookDelivery.status == WAITING,
        )
        .values(**said),
        execution_options={"synchronize_session": False},
    )


def allowed() -> Allowed:
    """What this installation allows besides public addresses."""
    return Allowed.parse(get_settings().webhook_allowed)


def _check(text: str) -> None:
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii").strip("[]")
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidParams("that is not a URL", param="url") from error
    schemes = ("https", "http") if get_settings().webhook_http else ("https",)
    if url.scheme not in schemes or not host:
        raise InvalidParams(f"the URL must begin with {schemes[0]}://", param="url")
    if url.userinfo or url.fragment:
        raise InvalidParams("the URL must hold neither a user nor a fragment", param="url")
    address = literal(host)
    if address is not None and not allowed().takes(host, address):
        raise InvalidParams(
            "that address is not public",
            param="url",
            hint="the administrator may allow it with BURNISH_WEBHOOK_ALLOWED",
        )
