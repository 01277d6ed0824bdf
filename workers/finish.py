"""The end of an attempt that brought a result: files into storage, then everything else in one transaction."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts.schemas import Kind
from app.artifacts.tables import Artifact, ArtifactInput
from app.auth import quotas
from app.ids import new_id
from app.jobs import lease
from app.jobs.status import JobStatus
from app.jobs.tables import StepResult
from app.measurements.tables import Measurement
from app.redaction import showable
from app.storage import Blob, get_storage
from workers.answers import inside
from workers.assignment import JobAssignment
from workers.child_process import ProtocolError
from workers.hold import JobHold

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Text20 = Annotated[str, StringConstraints(min_length=1, max_length=20)]
Text30 = Annotated[str, StringConstraints(min_length=1, max_length=30)]
Text40 = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Text60 = Annotated[str, StringConstraints(min_length=1, max_length=60)]
Text100 = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputSaid(_Said):
    """One thing that an artifact was made from."""

    role: Text30
    id: Text40
    digest: Digest


class ArtifactSaid(_Said):
    """A file that the child made; `tree_digest` names the stored step that a job can start from."""

    role: Text40
    kind: Kind
    filename: Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f]{1,255}$")]
    media_type: Text100
    path: Path
    manifest: dict[str, Any] | None
    inputs: list[InputSaid]
    tree_digest: str | None = None


class MeasurementSaid(_Said):
    """A number that the child measured."""

    side: Text20
    name: Text60
    unit: Text20
    value: float | None
    low: float | None
    high: float | None
    samples: dict[str, Any]
    machine: dict[str, Any]


class ProblemSaid(_Said):
    """What went wrong (`app/errors.py`)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    stage: str | None = None
    node: str | None = None
    param: str | None = None
    hint: str | None = None
    errors: list[dict[str, Any]] | None = None


class ResultSaid(_Said):
    """What a job brings."""

    result: dict[str, Any]
    artifacts: list[ArtifactSaid] = Field(max_length=100)
    measurements: list[MeasurementSaid] = Field(max_length=10_000)


@dataclass(frozen=True)
class Brought:
    """A result whose files are in storage."""

    said: ResultSaid
    blobs: list[Blob]  # of `said.artifacts`, in order


def read_problem(said: Any) -> dict[str, Any]:
    """The problem object of a child's last line.

    Raises:
        ProtocolError: it is none.
    """
    try:
        problem = ProblemSaid.model_validate(said).model_dump(exclude_none=True)
    except ValidationError as error:
        raise ProtocolError(f"a problem that does not fit: {error}") from error
    return {name: showable(value) if isinstance(value, str) else value for name, value in problem.items()}


def keep_files(assignment: JobAssignment, result: Any) -> Brought:
    """Put the files of a child's result into storage.

    Raises:
        ProtocolError: the result does not fit, or names files that are not the child's.
        DiskFull: no space left.
    """
    try:
        said = ResultSaid.model_validate(result)
    except ValidationError as error:
        raise ProtocolError(f"a result that does not fit: {error}") from error
    known = {assignment.subject.id, *assignment.datasets, *assignment.teachers}
    blobs = []
    for artifact in said.artifacts:
        if strange := {source.id for source in artifact.inputs} - known:
            raise ProtocolError(f"an artifact made from {sorted(strange)}, which the job does not read")
        path = inside(assignment.scratch, artifact.path)
        if not path.is_file():
            raise ProtocolError(f"an artifact without a file: {artifact.filename}")
        try:
            blobs.append(get_storage().put_file(path))
        except ValueError as error:
            raise ProtocolError(f"an artifact that cannot be stored: {error}") from error
    return Brought(said, blobs)


def conclude(
    session: Session,
    hold: JobHold,
    assignment: JobAssignment,
    brought: Brought,
    problem: dict[str, Any] | None,
) -> bool:
    """Artifacts, lineage, measurements and the job's end; False where the hold is lost, and then nothing is written.

    Raises:
        ProtocolError: an artifact claims a tree that the project did not store.
        QuotaExceeded: with these artifacts, the project stores more than it may.
    """
    if lease.hold(session, hold.job_id, hold.attempt) is None:
        return False
    ids: dict[str, str] = {}
    for artifact, blob in zip(brought.said.artifacts, brought.blobs, strict=True):
        ids[artifact.role] = _add_artifact(session, hold, assignment, artifact, blob)
    for number in brought.said.measurements:
        session.add(
            Measurement(
                id=new_id("mea"), project_id=hold.project_id, job_id=hold.job_id, **number.model_dump()
            )
        )
    session.flush()
    quotas.check_storage(session, hold.project_id, 0)
    return lease.finish(
        session,
        hold.job_id,
        hold.attempt,
        JobStatus.SUCCEEDED if problem is None else JobStatus.FAILED,
        result={**brought.said.result, "artifacts": ids},
        problem=problem,
    )


def _add_artifact(
    session: Session, hold: JobHold, assignment: JobAssignment, artifact: ArtifactSaid, blob: Blob
) -> str:
    if artifact.tree_digest not in (None, assignment.subject.digest):
        stored = select(StepResult.key).where(
            StepResult.project_id == hold.project_id, StepResult.digest == artifact.tree_digest
        )
        if session.scalar(stored.limit(1)) is None:
            raise ProtocolError(f"artifact {artifact.filename} claims a tree that the project did not store")
    row = Artifact(
        id=new_id("art"),
        project_id=hold.project_id,
        job_id=hold.job_id,
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        **artifact.model_dump(include={"kind", "filename", "media_type", "manifest", "tree_digest"}),
    )
    session.add(row)
    session.flush()
    roles: Counter[str] = Counter()
    for source in artifact.inputs:
        roles[source.role] += 1
        count = roles[source.role]
        session.add(
            ArtifactInput(
                artifact_id=row.id,
                role=source.role if count == 1 else f"{source.role}-{count}",
                input_id=source.id,
                project_id=hold.project_id,
                digest=source.digest,
            )
        )
    return row.id
