"""The base of every schema that a request or an answer carries."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer


def rfc3339(value: datetime) -> str:
    """A time as answers carry it: UTC, milliseconds, `Z`."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


UtcTime = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]


class RequestSchema(BaseModel):
    """What a client sends: an unknown field is an error, never ignored; NaN is no number that JSON can answer with."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AnswerSchema(BaseModel):
    """What the service answers: read from rows by attribute."""

    model_config = ConfigDict(from_attributes=True)
