"""The profile of a training, for a job: the steps of its recipe's last pass."""

from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from app.catalog.pass_params.training import TrainingParams
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.jobs.looking import ProfileSettings
from app.profiles.schemas import Profile
from workers.context import PassContext
from workers.distributions import versions_of
from workers.measure.environment import machine
from workers.measure.processors import usable_processors
from workers.measure.statistics import median_interval
from workers.passing import pass_samples, pass_teacher, run_pass, taken
from workers.profiling.recorded import Made, Plan, as_layers
from workers.profiling.training import ProfiledTraining, profile_training
from workers.timing import alone

if TYPE_CHECKING:
    from workers.pipeline import Attempt


def profile_last_pass(attempt: "Attempt", settings: ProfileSettings) -> Made:
    """Do the passes before the last one, and profile steps of that.

    Raises:
        BurnishError: a pass failed.
    """
    if RUNTIMES[attempt.assignment.target["runtime"]].device == "cuda":
        attempt.device = "cuda"
    *before, last = attempt.assignment.recipe["passes"]
    model = attempt.assignment.subject.handle()
    for number, step in enumerate(before):
        model = run_pass(attempt, number, step, model)
    spec = PASSES[last["pass"]]
    params = spec.params.model_validate(last["params"])
    model = taken(attempt, model, spec.formats)
    folder = attempt.assignment.scratch / "profiling"
    for name in ("out", "work", "recorded"):
        (folder / name).mkdir(parents=True)
    ctx = PassContext(
        out=folder / "out",
        work=folder / "work",
        seed=attempt.assignment.seed,
        samples=pass_samples(attempt, spec, last),
        teacher=pass_teacher(attempt, spec, last),
        device=attempt.device,
        memory_bytes=attempt.assignment.memory_bytes,
        report=attempt.report("profiling"),
    )
    plan = Plan(seconds=settings.seconds)
    with alone(attempt.supervisor, attempt.device, [model.root]):
        found = attempt.steps.fresh(
            "profiling", lambda: profile_training(spec.name, model, params, ctx, plan, folder / "recorded")
        )
    assert isinstance(params, TrainingParams)
    return Made(_profile(attempt, params, found), found.recorded.traces)


def _profile(attempt: "Attempt", params: TrainingParams, found: ProfiledTraining) -> Profile:
    subject, recorded = attempt.assignment.subject, found.recorded
    step = median_interval(np.array([found.step_ms]), attempt.assignment.seed)
    return Profile(
        subject={name: getattr(subject, name) for name in ("id", "digest", "name", "format")},
        target=attempt.assignment.target,
        of="training",
        batch=params.batch_size,
        threads=usable_processors(),
        runs=len(recorded.run_ms),
        latency={
            "p50_ms": step.value,
            "low_ms": step.low,
            "high_ms": step.high,
            "launches": 1,
            "samples": len(found.step_ms),
        },
        profiled_ms=median(recorded.run_ms),
        layers_ms=sum(row.mean_ms for row in recorded.rows),
        gap=None,
        layers=as_layers(recorded.rows, [row.sources for row in recorded.rows]),
        phases=found.phases,
        peak_memory_bytes=recorded.peak_memory_bytes,
        memory=recorded.memory,
        peaks=None,
        notes=recorded.notes,
        machine=machine(),
        versions=dict(versions_of(("torch",))),
    )
