"""The audit log as clients see it."""

from typing import Any

from pydantic import Field

from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime


class AuditQuery(PageQuery):
    """Which entries to list."""

    action: str | None = Field(None, max_length=60, description="Only this action, such as `job.cancelled`.")
    subject: str | None = Field(None, max_length=40, description="Only what was done to this id.")
    key: str | None = Field(None, max_length=40, description="Only what this key did.")
    project: str | None = Field(
        None,
        max_length=40,
        description="Whose log; absent: the asking key's project. Another one needs an admin of the default project.",
    )


class AuditAnswer(AnswerSchema):
    """One change."""

    id: str
    at: UtcTime = Field(validation_alias="created_at")
    key: str | None = Field(
        validation_alias="key_id",
        description="Whose key did it; null: a command on the service's machines, or the service itself.",
    )
    action: str = Field(description="What was done: `model.created`, `job.cancelled`, `project.changed`, …")
    subject: str | None = Field(validation_alias="subject_id", description="The id of what was changed.")
    request_id: str | None = Field(description="The request, as its answer and the service's log name it.")
    detail: dict[str, Any]
