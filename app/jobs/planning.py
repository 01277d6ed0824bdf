"""A request held against catalog, model, datasets and fleet: what would be done for each target, or why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.evaluation import check_droppable, check_labels, metric_called, output_read
from app.catalog.metrics import METRICS
from app.catalog.packages import PACKAGES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan, validate_target
from app.errors import InvalidParams, UnsupportedOperator
from app.jobs.schemas import EvaluationRequest, JobRequest
from app.jobs.subjects import Subject, find_datasets, find_subject

UNSUPPORTED_SHOWN = 20


@dataclass(frozen=True)
class Grounds:
    """What a request is held against, and the request with what follows from it filled in."""

    request: JobRequest
    subject: Subject
    datasets: Mapping[str, DatasetFacts]
    teachers: Mapping[str, Subject]


@dataclass(frozen=True)
class Planned:
    """One target with every parameter, and the recipe that its job will follow."""

    target: Target
    recipe: Recipe


def ground(session: Session, project_id: str, request: JobRequest) -> Grounds:
    """Find what the request names, and check what holds for all targets.

    Raises:
        NotFound, Conflict, InvalidModel, InvalidDataset: what it names is missing, not inspected yet, or rejected.
        InvalidParams, SignatureMismatch: its fields do not fit each other or the data.
    """
    if request.budget is not None and request.evaluation is None:
        raise InvalidParams(
            "a budget needs an evaluation to be held against",
            param="budget",
            hint="name the data and the metric in `evaluation`",
        )
    subject = find_subject(session, project_id, request.subject)
    datasets = find_datasets(session, project_id, request.dataset_paths())
    teachers = {
        id_: find_subject(session, project_id, id_, path) for id_, path in request.teacher_paths().items()
    }
    if request.evaluation is not None:
        dataset = datasets[request.evaluation.dataset]
        evaluation = _evaluation(request.evaluation, subject, dataset)
        request = request.model_copy(update={"evaluation": evaluation})
        if request.budget is not None:
            check_droppable(METRICS[evaluation.metric], "budget", "budget")
    return Grounds(request, subject, datasets, teachers)


def plan_target(grounds: Grounds, index: int) -> Planned:
    """What would be done for one target.

    Raises:
        UnknownPass, InvalidParams, IncompatibleRecipe, SignatureMismatch: see `app.catalog.recipe.plan`.
        UnsupportedOperator: the target's runtime cannot run nodes of the model.
        InvalidParams: there is no such form of the target's engines as `options.package` asks for.
    """
    request, at = grounds.request, f"targets[{index}]"
    target = validate_target(request.targets[index], at)
    _check_packages(request.options.package, target)
    _check_coverage(grounds.subject.model_facts().coverage, target.runtime, at)
    recipe = plan(
        request.recipe,
        grounds.subject.model_facts(),
        target,
        grounds.datasets,
        request.evaluation,
        request.options,
        teachers={id_: teacher.model_facts() for id_, teacher in grounds.teachers.items()},
        calibration_hint=request.inputs.get("calibration"),
        at=at,
    )
    return Planned(target, recipe)


def _check_packages(names: Sequence[str], target: Target) -> None:
    for name in names:
        if (why := PACKAGES[name].refuses(target.runtime, target.params)) is not None:
            taken = sorted(
                one for one, spec in PACKAGES.items() if not spec.refuses(target.runtime, target.params)
            )
            raise InvalidParams(
                f"there is no package for {name} of an engine of {target.runtime}: {why}",
                param="options.package",
                hint=f"leave it out, or take {', '.join(taken)}" if taken else "leave it out",
            )


def _check_coverage(coverage: Mapping[str, Any], runtime: str, at: str) -> None:
    """Refuse what the runtime said when it was asked at the inspection; what it did not say is found out by building."""
    unsupported = coverage.get(runtime, {}).get("unsupported")
    if not unsupported:
        return
    first, count = unsupported[0], coverage[runtime]["unsupported_count"]
    raise UnsupportedOperator(
        f"{runtime} cannot run {count} of the model's {coverage[runtime]['operators']} nodes; the first: {first['reason']}",
        node=first["node"],
        param=f"{at}.runtime",
        hint="choose another target, or export the model without these operators; `burnish optimize … --dry-run` and "
        "`POST /v1/models/{id}/validate` list them for every target",
        errors=[
            {"node": one["node"], "operator": one["operator"], "detail": one["reason"]}
            for one in unsupported[:UNSUPPORTED_SHOWN]
        ],
    )


def _evaluation(evaluation: EvaluationRequest, subject: Subject, dataset: DatasetFacts) -> EvaluationRequest:
    metric = metric_called(evaluation.metric, "evaluation.metric")
    check_labels(metric, dataset.id, dataset.labels, "evaluation.metric")
    outputs = [output["name"] for output in subject.signature["outputs"]]
    output = output_read(evaluation.output, outputs, "evaluation.output")
    return evaluation.model_copy(update={"output": output})
