"""An engine's conditions held against the workers that live now."""

from sqlalchemy.orm import Session

from app.artifacts.envelope import conditions_of, hold, verdict
from app.artifacts.machine import of_worker
from app.artifacts.schemas import ConditionAnswer, HeldAnswer, ValidityAnswer, WorkerValidityAnswer
from app.artifacts.tables import Artifact
from app.errors import InvalidParams
from app.fleet import service as fleet


def validity_of(session: Session, artifact: Artifact, seen_seconds: float) -> ValidityAnswer:
    """The conditions in an engine's manifest, and on which of the live workers they hold.

    Raises:
        InvalidParams: the artifact is no engine, or its conditions are of a kind that this version does not know.
    """
    if artifact.kind != "engine" or artifact.manifest is None:
        raise InvalidParams(
            f"the artifact {artifact.id} is of kind {artifact.kind}; only engines are valid somewhere",
            hint=f"see `GET /v1/artifacts?job={artifact.job_id}&kind=engine`",
        )
    try:
        conditions = conditions_of(artifact.manifest.get("validity") or {})
    except ValueError as error:
        raise InvalidParams(f"the engine's conditions cannot be read: {error}") from error
    workers = []
    for worker in fleet.list_live(session, seen_seconds):
        held = hold(conditions, of_worker(worker.hardware, worker.runtimes))
        findings = [HeldAnswer(what=one.condition.what, verdict=one.verdict, detail=one.text) for one in held]
        workers.append(
            WorkerValidityAnswer(worker=worker.id, host=worker.host, verdict=verdict(held), findings=findings)
        )
    answers = [ConditionAnswer.model_validate(condition.as_json()) for condition in conditions]
    return ValidityAnswer(conditions=answers, workers=workers)
