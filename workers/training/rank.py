"""What one process does that trains: alone, or one of several that hold the same job."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from app.catalog.evaluation import output_read
from app.catalog.pass_params.training import TrainingParams
from app.errors import InvalidParams
from workers.training.batches import open_batches
from workers.training.group import Group
from workers.training.loop import Loop, Tell
from workers.training.phases import UNMEASURED, Phases
from workers.training.report import TrainingReport
from workers.training.scalars import write_scalars
from workers.training.scoring import scoring_of
from workers.training.task import STAGE, Task, TrainingJob, device_of
from workers.training.weights import WEIGHTS

SCALARS = "scalars"


def train(job: TrainingJob, group: Group, tell: Tell, phases: Phases = UNMEASURED) -> TrainingReport:
    """Train what the job says, and write `trained.safetensors`, `report.json` and `scalars/` into its `out`.

    `tell` is called in the main process: {kind: progress, done, total, message} and {kind: checkpoint, folder}. `phases` is told
    what steps are made of.

    Raises:
        InvalidParams, InvalidDataset, SignatureMismatch, InvalidModel, IncompatibleRecipe: parameters, data and network do
            not fit each other, or training diverges. Every process of the group raises.
        OutOfMemory: a batch is too large.
    """
    params = params_of(job.params)
    check_params(params, group.world, validation=job.validation is not None)
    device = device_of(job.device, int(os.environ.get("LOCAL_RANK", 0)))
    task: Task = import_module(f"workers.training.tasks.{job.task}").build(job, device)
    output = output_of(params, task.outputs)
    reading: dict[str, Any] = {
        "inputs": tuple(task.inputs),
        "batch_size": params.batch_size,
        "seed": job.seed,
        "rank": group.rank,
        "world": group.world,
        "device": device,
        "loader": params.loader,
        "memory_bytes": job.memory_bytes,
    }
    classes = classes_of(output, task.outputs)
    batches = open_batches(job.train, augment=params.augment, classes=classes, **reading)
    validation = None if job.validation is None else open_batches(job.validation, augment=[], **reading)
    try:
        metric = params.metric if validation is not None else None
        scoring = scoring_of(metric, output, None if validation is None else validation.labels)
        loop = Loop(
            task, batches, validation, scoring, params, group, tell,
            seed=job.seed, device=device, out=job.out, checkpoint_seconds=job.checkpoint_seconds,
            checkpoint=job.checkpoint, phases=phases,
        )  # fmt: skip
        report = loop.run()
        loop.save(job.out / WEIGHTS)
    finally:
        batches.close()
        if validation is not None:
            validation.close()
    if group.is_main:
        write_scalars(loop.rows, job.out / SCALARS)
        report.save(job.out)
    group.barrier()
    return report


def params_of(given: Mapping[str, Any]) -> TrainingParams:
    """What all training passes have of a pass's parameters."""
    return TrainingParams.model_validate(
        {name: value for name, value in given.items() if name in TrainingParams.model_fields}
    )


def check_params(params: TrainingParams, processes: int, *, validation: bool) -> None:
    """Raises InvalidParams where parameters do not fit each other or the data that are there."""
    share = params.accumulate * processes
    if params.batch_size % share:
        raise InvalidParams(
            f"batch_size={params.batch_size} cannot be shared out evenly over accumulate={params.accumulate} and "
            f"{processes} process{'es' if processes > 1 else ''}",
            stage=STAGE,
            param="batch_size",
            hint=f"make it a multiple of {share}, as {max(1, round(params.batch_size / share)) * share}",
        )
    for name in ("patience", "metric"):
        if getattr(params, name) is not None and not validation:
            raise InvalidParams(
                f"{name} needs validation data",
                stage=STAGE,
                param=name,
                hint="name a dataset: {'inputs': {'validation': 'dat_…'}}",
            )


def output_of(params: TrainingParams, outputs: Sequence[Mapping[str, Any]]) -> str:
    """The output that is trained.

    Raises:
        InvalidParams: none is named and there are several, or it holds no floating-point numbers.
        SignatureMismatch: there is none of that name.
    """
    name = output_read(params.output, [entry["name"] for entry in outputs], "output")
    entry = next(entry for entry in outputs if entry["name"] == name)
    if not entry["dtype"].startswith(("float", "bfloat")):
        raise InvalidParams(
            f"the output {name!r} holds {entry['dtype']}, from which no gradient comes",
            stage=STAGE,
            param="output",
            hint="name the output that holds scores, or upload the network without the choice of the largest",
        )
    return name


def classes_of(output: str, outputs: Sequence[Mapping[str, Any]]) -> int | None:
    """How many classes an output gives a score each, one set a sample; None where it gives something else."""
    shape = next(entry["shape"] for entry in outputs if entry["name"] == output)
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1 else None
