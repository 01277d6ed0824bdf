"""Artifacts as clients see them."""

from typing import Any, Literal

from pydantic import Field

from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime

Kind = Literal["engine", "report", "model"]


class ArtifactQuery(PageQuery):
    """Which artifacts to list."""

    job: str | None = Field(None, max_length=40, description="Only those that this job made.")
    kind: Kind | None = Field(None, description="Only those of this kind.")


class ArtifactInputAnswer(AnswerSchema):
    """One thing that an artifact was made from."""

    role: str = Field(description="subject, calibration, evaluation, …")
    id: str = Field(validation_alias="input_id", description="A model, a dataset or an artifact.")
    digest: str = Field(description="Its digest when it was read.")


class ArtifactAnswer(AnswerSchema):
    """A file that a job made."""

    id: str
    job: str = Field(validation_alias="job_id")
    kind: Kind
    filename: str
    media_type: str
    size_bytes: int
    sha256: str = Field(validation_alias="digest", description="SHA-256 of the file.")
    manifest: dict[str, Any] | None = Field(
        description="What the file's maker says of it; an engine's is in its bundle too."
    )
    inputs: list[ArtifactInputAnswer] = Field(description="What it was made from.")
    content_url: str = Field(description="Where the file is.")
    created_at: UtcTime
