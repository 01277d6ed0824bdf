"""From a pass to its training and back: the job, the checks before it, and what the pass tells of it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.catalog.pass_params.training import TrainingParams
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.training.classes import check_classes
from workers.training.data import describe
from workers.training.launch import run
from workers.training.rank import check_params
from workers.training.report import TrainingReport
from workers.training.task import TrainingJob
from workers.training.weights import WEIGHTS

MOST_EPOCHS_TOLD = 100


@contextmanager
def train_in_pass(
    task: str, model: ModelHandle, params: TrainingParams, ctx: PassContext, **job: Any
) -> Iterator[Path]:
    """Train, tell of it in `ctx`, and give the file of the weights for the block. `job`: further fields of `TrainingJob`.

    Raises: see `launch.run`.
    """
    validation = ctx.samples.get("validation")
    check_params(params, 1, validation=validation is not None)
    if params.learns_from_labels:
        check_classes(ctx.samples["train"])
    with folder(ctx) as work:
        out = work / "training"
        out.mkdir()
        report = run(
            TrainingJob(
                task=task,
                program=model.path,
                params=params.model_dump(mode="json"),
                seed=ctx.seed,
                device=ctx.device,
                train=describe(ctx.samples["train"], ctx, params.loader.cache),
                validation=None if validation is None else describe(validation, ctx, params.loader.cache),
                out=out,
                **job,
            ),
            ctx,
            params,
        )
        _tell(report, ctx)
        yield out / WEIGHTS


@contextmanager
def folder(ctx: PassContext) -> Iterator[Path]:
    """Where a pass may write what nobody needs afterwards."""
    if ctx.work is not None:
        yield ctx.work
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _tell(report: TrainingReport, ctx: PassContext) -> None:
    told = report.model_dump(mode="json")
    told["history"] = told["history"][-MOST_EPOCHS_TOLD:]
    ctx.facts["training"] = told
    ctx.say(in_words(report))
    if told_by_loader := report.loader.get("told"):
        ctx.say(f"Reading samples: {told_by_loader}")
    if report.best_epoch == 0:
        ctx.warn(
            f"no epoch was better on the validation data ({report.metric} {report.before:.4g}) than the weights that training "
            "began with, which were left: try a lower learning_rate, or more epochs"
        )


def in_words(report: TrainingReport) -> str:
    """How it went, in sentences."""
    text = f"Trained {report.epochs} epoch{'s' if report.epochs > 1 else ''} ({report.steps} steps) in {report.seconds:.0f} s"
    text += f", {report.samples_per_second:.0f} samples/s"
    if report.processes > 1:
        text += f", in {report.processes} processes"
    if report.history:
        text += f"; loss {report.history[0].loss:.4g} in the first epoch, {report.history[-1].loss:.4g} in the last"
    if report.best is not None:
        text += f"; validation {report.metric} {report.before:.4g} before, {report.best:.4g} at epoch {report.best_epoch}"
    if report.kept_zero:
        text += f"; {report.kept_zero:,} weights that were zero stayed so"
    if report.stopped_early:
        text += "; stopped early"
    if (skipped := report.precision.get("skipped_steps")) is not None:
        text += f"; {skipped} steps skipped for fp16, loss scale {report.precision['loss_scale']:g}"
    if report.resumed_from:
        text += f"; resumed after step {', '.join(map(str, report.resumed_from))}"
    return text + "."
