"""What jobs that look at an engine share: the engine itself, built or unpacked, and the inputs that it is run on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params, RuntimeSpec
from app.errors import InvalidDataset, InvalidParams
from app.jobs.subjects import ENGINE
from workers import runtimes, unmeasured
from workers.archive import unpack
from workers.building import build_engine, look_into
from workers.context import Feeds, Samples
from workers.feeds import FeedPlan, plan_feeds
from workers.measure.feeds_file import choose_feeds
from workers.measure.latency import EngineUnderTest
from workers.model_handle import ModelHandle
from workers.passing import run_pass, taken
from workers.runtimes.base import Engine
from workers.samples import synthetic_samples

if TYPE_CHECKING:
    from workers.pipeline import Attempt

MOST_FILES = 100_000  # of a bundle
MOST_GROWTH = 4  # of a bundle when it is unpacked: its weights are stored as they are


@dataclass(frozen=True)
class Seen:
    """An engine to look at. `source` is the model that it was built from; None where a bundle was given.

    `between` are the models on the way to it from the uploaded one, as passes and conversions left them, in order.
    """

    runtime: RuntimeSpec
    params: Params
    engine: Engine
    source: ModelHandle | None
    manifest: dict[str, Any] | None = None  # of a bundle
    between: tuple[ModelHandle, ...] = ()

    @property
    def under_test(self) -> EngineUnderTest:
        """As the measuring processes take it."""
        return EngineUnderTest(
            self.runtime.name, self.engine.root, self.engine.entry, self.params.model_dump(mode="json")
        )


def engine_of(attempt: "Attempt") -> Seen:
    """The engine of the job, with the target's own parameters; see `engines_of`."""
    return engines_of(attempt, [{}])[0]


def engines_of(attempt: "Attempt", changes: Sequence[Mapping[str, Any]]) -> list[Seen]:
    """The engine of the job: its subject's bundle unpacked, or built after the passes of its recipe.

    `changes`: parameters of the runtime that differ from the target's, an engine each.

    Raises:
        NoWorker: it cannot run here.
        BurnishError: a pass or the build failed.
    """
    assignment = attempt.assignment
    runtime = RUNTIMES[assignment.target["runtime"]]
    every = [runtime.params.model_validate({**assignment.target["params"], **changed}) for changed in changes]
    unmeasured.hindrance(runtime, every[0], {}, elsewhere=False)
    if runtime.device == "cuda":
        attempt.device = "cuda"
    if assignment.subject.format == ENGINE:
        unpacked = _unpacked(attempt, runtime, every[0])
        return [replace(unpacked, params=params) for params in every]
    model = assignment.subject.handle()
    between: list[ModelHandle] = []
    for number, step in enumerate(assignment.recipe["passes"]):
        given = taken(attempt, model, PASSES[step["pass"]].formats)
        model = run_pass(attempt, number, step, given)
        between += [given, model]
    source = taken(attempt, model, runtime.formats)
    return [_built(attempt, runtime, params, source, between) for params in every]


def _built(
    attempt: "Attempt",
    runtime: RuntimeSpec,
    params: Params,
    source: ModelHandle,
    between: Sequence[ModelHandle],
) -> Seen:
    engine = build_engine(attempt, "build", runtime, params, source)
    look_into(attempt, runtime, engine, params)
    return Seen(runtime, params, engine, source, between=tuple(between))


def feeds_of(attempt: "Attempt", seen: Seen, batch: int | None) -> tuple[list[Feeds], int]:
    """What the engine is run on, taken in turns, and how many samples a run of it has.

    Raises:
        InvalidParams: the engine does not take such a batch.
        InvalidDataset: there are fewer samples than one run takes.
        SignatureMismatch: the data do not fit the engine.
    """
    samples = _samples(attempt, batch or 1)
    plan = _plan(seen, samples)
    size = batch or plan.fixed_batch or 1
    if plan.max_batch not in (None, size):
        raise InvalidParams(
            f"a run of the engine takes {plan.max_batch} sample{'s' if plan.max_batch != 1 else ''}, not {size}",
            stage="measuring",
            param="batch",
            hint="leave the batch out, or upload the model with a free one",
        )
    if samples.count < size:
        raise InvalidDataset(
            f"the dataset has {samples.count} samples, and one run takes {size}",
            stage="measuring",
            param="data",
            hint="give more samples, or a smaller batch",
        )
    return choose_feeds(replace(plan, fixed_batch=size if plan.batchable else None), samples), size


def runs_of_query(attempt: "Attempt", seen: Seen, samples: int) -> tuple[int, int]:
    """The samples of one run and the runs, one after another, that a query of so many samples takes: one where the engine's batch is
    free.

    Raises as `feeds_of`.
    """
    most = _plan(seen, _samples(attempt, samples)).max_batch
    return (samples, 1) if most is None else (most, ceil(samples / most))


def _plan(seen: Seen, samples: Samples) -> FeedPlan:
    inputs = runtimes.registry.alone(seen.runtime.name).load(seen.engine, seen.params).inputs
    return plan_feeds(inputs, samples.inputs)


def _samples(attempt: "Attempt", least: int) -> Samples:
    """The job's data; seeded ones as many as a run takes."""
    samples = attempt.measuring_samples
    if samples.synthetic and samples.count < least:
        return synthetic_samples(attempt.signature, attempt.assignment.seed, least)
    return samples


def _unpacked(attempt: "Attempt", runtime: RuntimeSpec, params: Params) -> Seen:
    subject = attempt.assignment.subject
    bundle, folder = subject.root / subject.entry, attempt.assignment.scratch / "bundle"
    unpack(bundle, folder, MOST_GROWTH * bundle.stat().st_size + (1 << 20), MOST_FILES)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    root, _, entry = manifest["engine"]["entry"].partition("/")
    return Seen(runtime, params, Engine(folder / root, entry, manifest["engine"]["facts"]), None, manifest)


def written(path: Path, value: Any) -> Path:
    """A file with plain data as JSON."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path
