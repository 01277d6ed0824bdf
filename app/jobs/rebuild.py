"""An engine built anew, for another target or another machine, from the optimized model that its job stored."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.artifacts.tables import Artifact
from app.catalog.recipe import Recipe, Target
from app.datasets.tables import Dataset
from app.errors import Conflict
from app.jobs import service
from app.jobs.schemas import EvaluationRequest, OptimizeRequest, RebuildRequest
from app.jobs.tables import Job


def rebuild(session: Session, project_id: str, artifact_id: str, request: RebuildRequest) -> Job:
    """Queue a job that does no pass: it starts from the model that the artifact was made of, after the passes.

    Its baseline is that model too, in fp32 where it still is; accuracy is measured on the evaluation data of before.

    Raises:
        NotFound: the project has no such artifact.
        Conflict: the optimized model was deleted.
        others: as `service.submit`.
    """
    artifact = artifacts.get_artifact(session, project_id, artifact_id)
    maker = service.get_job(session, project_id, artifact.job_id)
    body = OptimizeRequest(
        kind="optimize",
        subject=_subject(session, artifact, maker),
        name=request.name or maker.name,
        recipe=Recipe(passes=[]),
        targets=[request.target or Target.model_validate(maker.request["targets"][0])],
        evaluation=request.evaluation or _evaluation(session, maker),
        options=request.options,
        limits=request.limits,
        labels=request.labels,
    )
    return service.submit(session, project_id, body)


def _subject(session: Session, artifact: Artifact, maker: Job) -> str:
    """The optimized model's artifact, or what the job started from where its passes changed nothing."""
    if artifact.kind == "model":
        return artifact.id
    made: dict[str, Any] = (maker.result or {}).get("artifacts", {})
    if "model" not in made:
        return maker.subject
    query = select(Artifact.id).where(
        Artifact.id == made["model"], Artifact.project_id == artifact.project_id
    )
    if (found := session.scalar(query)) is None:
        raise Conflict(
            f"the optimized model that {artifact.id} was built from, {made['model']}, was deleted",
            hint=f"make it anew: `POST /v1/jobs/{maker.id}/retry`, whose steps may be stored still",
        )
    return found


def _evaluation(session: Session, maker: Job) -> EvaluationRequest | None:
    """How accuracy was measured before, if the data is still there."""
    said = maker.request.get("evaluation")
    if said is None:
        return None
    query = select(Dataset.id).where(Dataset.id == said["dataset"], Dataset.project_id == maker.project_id)
    return None if session.scalar(query) is None else EvaluationRequest.model_validate(said)
