"""Artifacts: found, listed, deleted. Workers write them, with the end of their job (`workers/finish.py`)."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.artifacts.schemas import ArtifactAnswer, ArtifactInputAnswer, ArtifactQuery
from app.artifacts.tables import Artifact, ArtifactInput
from app.audit.service import record
from app.config import get_settings
from app.errors import Conflict, NotFound
from app.http.paging import paginate
from app.jobs.tables import Job
from app.references import read_by_jobs, release


def get_artifact(session: Session, project_id: str, artifact_id: str) -> Artifact:
    """An artifact of the project.

    Raises:
        NotFound: the project has none with this id.
    """
    query = select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id)
    artifact = session.scalar(query)
    if artifact is None:
        raise NotFound(f"there is no artifact {artifact_id}")
    return artifact


def list_artifacts(
    session: Session, project_id: str, query: ArtifactQuery
) -> tuple[list[Artifact], str | None]:
    """A page of the project's artifacts and the cursor of the next."""
    statement = select(Artifact).where(Artifact.project_id == project_id)
    if query.job is not None:
        statement = statement.where(Artifact.job_id == query.job)
    if query.kind is not None:
        statement = statement.where(Artifact.kind == query.kind)
    return paginate(session, statement, Artifact, query)


def answers(session: Session, project_id: str, artifacts: Sequence[Artifact]) -> list[ArtifactAnswer]:
    """Artifacts as clients see them, with what they were made from: one statement however many they are."""
    query = select(ArtifactInput).where(
        ArtifactInput.project_id == project_id,
        ArtifactInput.artifact_id.in_([artifact.id for artifact in artifacts]),
    )
    inputs = defaultdict(list)
    for row in session.scalars(query.order_by(ArtifactInput.role)):
        inputs[row.artifact_id].append(ArtifactInputAnswer.model_validate(row))
    base = get_settings().public_url.rstrip("/")
    return [
        ArtifactAnswer(
            id=artifact.id,
            job_id=artifact.job_id,
            kind=artifact.kind,
            filename=artifact.filename,
            media_type=artifact.media_type,
            size_bytes=artifact.size_bytes,
            digest=artifact.digest,
            manifest=artifact.manifest,
            inputs=inputs[artifact.id],
            content_url=f"{base}/v1/artifacts/{artifact.id}/content",
            created_at=artifact.created_at,
        )
        for artifact in artifacts
    ]


def delete_artifact(session: Session, project_id: str, artifact_id: str) -> None:
    """Delete an artifact, and its bytes where nothing else refers to them.

    Raises:
        NotFound: the project has none with this id.
        Conflict: a job starts from it or learns from it.
    """
    query = select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id)
    artifact = session.scalar(query.with_for_update())
    if artifact is None:
        raise NotFound(f"there is no artifact {artifact_id}")
    remove(session, project_id, [artifact])
    said = {"filename": artifact.filename, "job": artifact.job_id}
    record(session, project_id, "artifact.deleted", artifact_id, **said)


def remove(
    session: Session, project_id: str, artifacts: Sequence[Artifact], *, with_jobs: Sequence[str] = ()
) -> None:
    """Delete artifacts whose rows the caller has locked; `with_jobs` are about to be deleted with them.

    Raises:
        Conflict: another job starts from one of them or learns from it.
    """
    ids = [artifact.id for artifact in artifacts]
    users = select(Job.id).where(Job.project_id == project_id, read_by_jobs(ids), Job.id.not_in(with_jobs))
    if found := list(session.scalars(users.order_by(Job.id).limit(5))):
        raise Conflict(
            f"a job reads what would be deleted: {', '.join(found)}",
            hint="delete the jobs that read it first",
        )
    session.execute(
        delete(Artifact).where(Artifact.project_id == project_id, Artifact.id.in_(ids)),
        execution_options={"synchronize_session": False},
    )
    release(
        session,
        blobs=[artifact.digest for artifact in artifacts],
        trees=[artifact.tree_digest for artifact in artifacts],
    )
