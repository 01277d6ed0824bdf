"""`/webhooks`. They carry what a project does out of the installation, so they are for its admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.auth.principal import Admin
from app.auth.routing import SecuredRoute
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page, PageQuery
from app.http.sessions import ReadSession, WriteSession
from app.webhooks import service
from app.webhooks.outbox import WAITING
from app.webhooks.schemas import DeliveryAnswer, NewWebhookAnswer, WebhookAnswer, WebhookRequest
from app.webhooks.tables import WebhookDelivery

router = APIRouter(tags=["webhooks"], route_class=SecuredRoute)


@router.post("/webhooks", status_code=201)
def create_webhook(
    body: WebhookRequest, principal: Admin, session: WriteSession, response: Response
) -> NewWebhookAnswer:
    """Tell an address of the ends of the project's jobs. The secret is shown this once, so `Idempotency-Key` has no effect."""
    webhook = service.create(session, principal.project_id, body.url)
    session.refresh(webhook)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewWebhookAnswer.model_validate(webhook)


@router.get("/webhooks")
def list_webhooks(
    page: Annotated[PageQuery, Query()], principal: Admin, session: ReadSession
) -> Page[WebhookAnswer]:
    """The project's webhooks, newest first, without their secrets."""
    rows, cursor = service.page_of(session, principal.project_id, page)
    return Page(items=[WebhookAnswer.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/webhooks/{webhook_id}")
def get_webhook(webhook_id: str, principal: Admin, session: ReadSession) -> WebhookAnswer:
    """A webhook, without its secret."""
    return WebhookAnswer.model_validate(service.find(session, principal.project_id, webhook_id))


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, principal: Admin, session: WriteSession) -> None:
    """Delete a webhook; messages that are still on their way to it are dropped."""
    service.remove(session, principal.project_id, webhook_id)


@router.get("/webhooks/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str, page: Annotated[PageQuery, Query()], principal: Admin, session: ReadSession
) -> Page[DeliveryAnswer]:
    """What a webhook was told, or is about to be, newest first."""
    rows, cursor = service.deliveries(session, principal.project_id, webhook_id, page)
    return Page(items=[_answer(row) for row in rows], next_cursor=cursor)


@router.post("/webhooks/{webhook_id}/test", status_code=202, response_model=DeliveryAnswer)
def test_webhook(
    webhook_id: str, principal: Admin, session: WriteSession, idempotency: IdempotencyDep
) -> Response:
    """Send a message of type `webhook.test`, tried again like any other; the deliveries say what came of it."""

    def create() -> Created:
        delivery = service.send_test(session, principal.project_id, webhook_id)
        return Created(_answer(delivery), f"/v1/webhooks/{webhook_id}/deliveries", 202)

    return idempotency.answer(session, principal.project_id, None, create)


def _answer(row: WebhookDelivery) -> DeliveryAnswer:
    columns = (
        "id",
        "type",
        "job_id",
        "status",
        "attempts",
        "answer_status",
        "problem",
        "created_at",
        "delivered_at",
    )
    return DeliveryAnswer(
        **{name: getattr(row, name) for name in columns},
        next_attempt_at=row.due_at if row.status == WAITING else None,
    )
