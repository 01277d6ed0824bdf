"""Artifacts as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.artifacts.envelope import Effect, Verdict
from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime

Kind = Literal["engine", "report", "model", "package", "training", "profile", "trace", "benchmark"]


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


class ConditionAnswer(BaseModel):
    """One thing that an engine needs of a machine."""

    what: str = Field(description="A fact's name: `architecture`, `cpu_features`, `package:NAME`, …")
    rule: str = Field(description="How the fact is held against `wanted`: `equal`, `at_least`, `any_of`, …")
    wanted: str | int | list[str]
    otherwise: Effect = Field(description="What follows where it does not hold.")
    why: str


class HeldAnswer(BaseModel):
    """A condition held against a machine."""

    what: str
    verdict: Verdict = Field(description="`unproved`: only a run can tell.")
    detail: str


class WorkerValidityAnswer(BaseModel):
    """Whether an engine is valid on a worker's machine."""

    worker: str
    host: str
    verdict: Verdict = Field(description="The worst of its findings.")
    findings: list[HeldAnswer]


class ValidityAnswer(BaseModel):
    """Where an engine is valid."""

    conditions: list[ConditionAnswer]
    workers: list[WorkerValidityAnswer] = Field(description="The live workers.")
