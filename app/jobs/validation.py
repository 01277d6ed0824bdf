"""What a request would do, step by step and target by target; nothing is queued."""

from sqlalchemy.orm import Session

from app.catalog.formats import FORMATS, way
from app.catalog.passes import PASSES
from app.catalog.recipe import Recipe
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts, Precision, RuntimeSpec
from app.config import get_settings
from app.errors import BurnishError, InvalidParams
from app.fleet import service as fleet
from app.jobs.planning import Grounds, ground, plan_target, widest
from app.jobs.routing import route
from app.jobs.schemas import (
    CoverageAnswer,
    JobRequest,
    OperatorsAnswer,
    PlannedStep,
    TargetPlan,
    ValidationAnswer,
    WorkersAnswer,
)
from app.queue import queue_for

ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})


def validate(session: Session, project_id: str, model_id: str, request: JobRequest) -> ValidationAnswer:
    """What `submit` would do with a request. What speaks against one target stands in that target's `problem`.

    Raises:
        NotFound, Conflict, InvalidModel, InvalidDataset, InvalidParams, SignatureMismatch: what speaks against all.
    """
    if request.subject != model_id:
        raise InvalidParams(f"the body names {request.subject}, the address {model_id}", param="subject")
    grounds = ground(session, project_id, request)
    targets = [_target(session, grounds, index) for index in range(len(request.targets))]
    subject = grounds.subject
    return ValidationAnswer(
        valid=all(target.problem is None for target in targets),
        inputs=subject.signature["inputs"],
        outputs=subject.signature["outputs"],
        operators=OperatorsAnswer(
            counts=subject.facts["operators"],
            other_domains=sorted(set(subject.facts["domains"]) - ONNX_DOMAINS),
        ),
        targets=targets,
    )


def _target(session: Session, grounds: Grounds, index: int) -> TargetPlan:
    target = grounds.request.targets[index]
    facts = grounds.subject.model_facts()
    asked = facts.coverage.get(target.runtime, {})
    plan = TargetPlan(
        target=target,
        steps=[],
        notes=[],
        workers=_workers(session, queue_for(target.runtime)),
        coverage=None if "share" not in asked else CoverageAnswer.model_validate(asked),
        problem=None,
    )
    try:
        planned = plan_target(grounds, index)
        plan.target, plan.notes = planned.target, planned.recipe.notes
        plan.steps = _steps(planned.recipe, facts, RUNTIMES[target.runtime])
        plan.workers = _workers(
            session,
            route(
                session,
                widest(grounds.request, planned.target),
                planned.recipe,
                grounds.request.options,
                index,
            ),
        )
    except BurnishError as error:
        plan.problem = error.problem()
    return plan


def _steps(recipe: Recipe, facts: ModelFacts, runtime: RuntimeSpec) -> list[PlannedStep]:
    """The passes, and the conversions between formats that they and the runtime need."""
    steps: list[PlannedStep] = []
    precision, form = facts.precision, facts.format
    for step in recipe.passes:
        spec = PASSES[step.name]
        form = _convert(steps, form, spec.formats, precision)
        leaves = spec.produced(step.params) or precision
        steps.append(
            PlannedStep(
                name=step.name,
                version=spec.version,
                params=step.params,
                inputs=step.inputs,
                takes=precision,
                leaves=leaves,
            )
        )
        precision, form = leaves, spec.leaves or form
    _convert(steps, form, runtime.formats, precision)
    return steps


def _convert(steps: list[PlannedStep], form: str, taken: frozenset[str], precision: Precision) -> str:
    becomes = way(form, taken)
    if becomes is None:
        return form
    version = FORMATS[form].version
    steps.append(
        PlannedStep(
            name=f"convert:{becomes}",
            version=version,
            params={},
            inputs={},
            takes=precision,
            leaves=precision,
        )
    )
    return becomes


def _workers(session: Session, queue: str) -> WorkersAnswer:
    seen = get_settings().worker_seen_seconds
    live = [worker.id for worker in fleet.list_live(session, seen) if queue in worker.queues]
    return WorkersAnswer(queue=queue, state=fleet.served(session, seen).get(queue), workers=live)
