"""The base of every schema that a request or an answer carries."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


UtcTime = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]


class RequestSchema(BaseModel):
    """What a client sends: an unknown field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid")


class AnswerSchema(BaseModel):
    """What the service answers: read from rows by attribute."""

    model_config = ConfigDict(from_attributes=True)
