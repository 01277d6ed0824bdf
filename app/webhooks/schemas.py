"""Webhooks as clients see them."""

from typing import Literal

from pydantic import Field

from app.http.schemas import AnswerSchema, RequestSchema, UtcTime


class WebhookRequest(RequestSchema):
    """Where to tell of the ends of the project's jobs."""

    url: str = Field(
        min_length=1,
        max_length=2000,
        pattern=r"^[\x21-\x7e]+$",
        description="An `https` URL that takes a POST. Its host must be public, or allowed by the administrator.",
    )


class WebhookAnswer(AnswerSchema):
    """An address that is told of the ends of the project's jobs."""

    id: str
    url: str
    created_at: UtcTime


class NewWebhookAnswer(WebhookAnswer):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="`whsec_…`: what messages are signed with.")


class DeliveryAnswer(AnswerSchema):
    """One message to a webhook."""

    id: str = Field(description="The message's `webhook-id`, the same in every attempt.")
    type: Literal["job.finished", "webhook.test"]
    job_id: str | None = Field(description="The job whose end it tells of.")
    status: Literal["waiting", "delivered", "given_up"]
    attempts: int = Field(description="How many attempts were begun.")
    next_attempt_at: UtcTime | None = Field(description="Null: there will be none.")
    answer_status: int | None = Field(
        description="The HTTP status of the last attempt's answer, if there was one."
    )
    problem: str | None = Field(description="Why the last attempt failed.")
    created_at: UtcTime
    delivered_at: UtcTime | None
