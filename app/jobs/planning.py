"""A request held against catalog, model, datasets and fleet: what would be done for each target, or why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.catalog.evaluation import check_droppable, check_labels, metric_called, output_read
from app.catalog.metrics import METRICS
from app.catalog.packages import PACKAGES
from app.catalog.pass_params.training import TrainingParams
from app.catalog.passes import PASSES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan, validate_target
from app.catalog.recipe_data import check_dataset
from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidParams, UnsupportedOperator
from app.jobs.advice import find_advice
from app.jobs.schemas import BenchmarkRequest, EvaluationRequest, JobRequest, OptimizeRequest, ProfileRequest
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
    optimize = isinstance(request, OptimizeRequest)
    if isinstance(request, OptimizeRequest) and request.budget is not None and request.evaluation is None:
        raise InvalidParams(
            "a budget needs an evaluation to be held against",
            param="budget",
            hint="name the data and the metric in `evaluation`",
        )
    subject = find_subject(session, project_id, request.subject, engines=not optimize)
    datasets = find_datasets(session, project_id, request.dataset_paths())
    teachers = {
        id_: find_subject(session, project_id, id_, path) for id_, path in request.teacher_paths().items()
    }
    if isinstance(request, OptimizeRequest):
        if request.advice is not None:
            find_advice(session, project_id, request.advice)
        request = _evaluated(request, subject, datasets)
    else:
        request = _targeted(request, subject)
        if request.data is not None:
            check_dataset(request.data, datasets, subject.signature["inputs"], "data")
    return Grounds(request, subject, datasets, teachers)


def _evaluated(
    request: OptimizeRequest, subject: Subject, datasets: Mapping[str, DatasetFacts]
) -> OptimizeRequest:
    """With the output filled in that the evaluation reads."""
    if request.evaluation is not None:
        dataset = datasets[request.evaluation.dataset]
        evaluation = _evaluation(request.evaluation, subject, dataset)
        request = request.model_copy(update={"evaluation": evaluation})
        if request.budget is not None:
            check_droppable(METRICS[evaluation.metric], "budget", "budget")
    return request


def _targeted(
    request: ProfileRequest | BenchmarkRequest, subject: Subject
) -> ProfileRequest | BenchmarkRequest:
    """With the targets filled in: an engine knows its own, and takes another only where that is the same runtime's."""
    if subject.target is None:
        if not request.targets:
            raise InvalidParams(
                "a model needs a target to run on", param="targets", hint="name one of `GET /v1/runtimes`"
            )
        return request
    built = Target.model_validate(subject.target)
    if request.recipe.passes:
        raise InvalidParams(
            f"{subject.id} is a built engine: no pass can change it",
            param="recipe",
            hint="name the model that it was made from, or leave the recipe out",
        )
    for index, target in enumerate(request.targets):
        if target.runtime != built.runtime:
            raise InvalidParams(
                f"{subject.id} is an engine of {built.runtime}, which {target.runtime} cannot run",
                param=f"targets[{index}].runtime",
                hint=f"leave `targets` out, or name {built.runtime} with other parameters",
            )
    return request if request.targets else request.model_copy(update={"targets": [built]})


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
    if isinstance(request, BenchmarkRequest):
        _check_threads(request.benchmark.threads, target, at)
    if grounds.subject.target is not None:
        return Planned(target, Recipe(passes=[]))
    if isinstance(request, ProfileRequest) and request.profile.of == "training":
        _check_trains(request.recipe)
    _check_coverage(grounds.subject.model_facts().coverage, target.runtime, at)
    recipe = plan(
        request.recipe,
        grounds.subject.model_facts(),
        target,
        grounds.datasets,
        request.evaluation if isinstance(request, OptimizeRequest) else None,
        request.options,
        teachers={id_: teacher.model_facts() for id_, teacher in grounds.teachers.items()},
        calibration_hint=request.inputs.get("calibration"),
        at=at,
    )
    return Planned(target, recipe)


def _check_threads(counts: Sequence[int], target: Target, at: str) -> None:
    for count in counts:
        if "threads" not in RUNTIMES[target.runtime].params.model_fields:
            raise InvalidParams(
                f"{target.runtime} has no threads to choose", param="benchmark.threads", hint="leave them out"
            )
        validate_target(target.model_copy(update={"params": {**target.params, "threads": count}}), at)


def _check_trains(recipe: Recipe) -> None:
    last = PASSES.get(recipe.passes[-1].name) if recipe.passes else None
    if last is None or not issubclass(last.params, TrainingParams):
        trains = sorted(name for name, spec in PASSES.items() if issubclass(spec.params, TrainingParams))
        raise InvalidParams(
            "the steps of a training are profiled of the recipe's last pass, which has to be one that trains",
            param="recipe.passes",
            hint=f"let the last pass be one of {', '.join(trains)}",
        )


def widest(request: JobRequest, target: Target) -> Target:
    """The target with the most threads that the request tries on it: what its machine must have."""
    counts = request.benchmark.threads if isinstance(request, BenchmarkRequest) else []
    if not counts:
        return target
    return target.model_copy(update={"params": {**target.params, "threads": max(counts)}})


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
