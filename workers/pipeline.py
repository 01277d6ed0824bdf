"""One attempt of an `optimize` job: passes, engine, measurement, proof, bundle."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params, RuntimeSpec
from app.errors import SignatureMismatch
from workers import runtimes, unmeasured
from workers.assignment import JobAssignment
from workers.building import build_engine, look_into, reference_engine
from workers.bundle.package import Built, package
from workers.context import Aside, Samples
from workers.conversion import open_model
from workers.followed import followed
from workers.hand_over import HandOver
from workers.measure.latency import EngineUnderTest
from workers.measure.session import measure
from workers.model_handle import ModelHandle
from workers.passing import run_pass, taken
from workers.reporting.distribution import Runs
from workers.result import shape_result
from workers.runtimes.base import Engine
from workers.samples import open_samples, synthetic_samples
from workers.steps import Steps, Supervisor
from workers.timing import alone
from workers.verify import verify_baseline

LARGE_BYTES = 1 << 30
SYNTHETIC_MEASURING_SAMPLES = 16


@dataclass
class Attempt:
    """What one attempt knows and gathers."""

    assignment: JobAssignment
    supervisor: Supervisor
    steps: Steps
    warnings: list[str] = field(default_factory=list)
    converted: dict[tuple[str, str], ModelHandle] = field(default_factory=dict)  # by digest and format
    opened: dict[str, Samples] = field(default_factory=dict)  # by the dataset's id
    device: str = "cpu"  # where training may be done
    asides: list[Aside] = field(default_factory=list)  # what passes left besides their models
    signature: Mapping[str, Any] = field(
        init=False
    )  # the subject's, with the sizes that passes have fixed since

    def __post_init__(self) -> None:
        self.signature = self.assignment.subject.signature

    def dataset(self, id_: str) -> Samples:
        """A dataset of the job, opened once: that reads through a whole `.tar`."""
        if id_ not in self.opened:
            self.opened[id_] = open_samples(self.assignment.datasets[id_])
        return self.opened[id_]

    @cached_property
    def measuring_samples(self) -> Samples:
        """What engines are run on: the data named for it, else the first calibration data, else seeded inputs."""
        assignment = self.assignment
        if assignment.data is not None:
            return self.dataset(assignment.data)
        if assignment.evaluation:
            return self.dataset(assignment.evaluation["dataset"])
        if assignment.datasets:
            return self.dataset(next(iter(assignment.datasets)))
        self.warnings.append(
            "no data was given: engines were run on seeded random inputs, which says little about accuracy"
        )
        return synthetic_samples(self.signature, assignment.seed, SYNTHETIC_MEASURING_SAMPLES)

    def report(self, stage: str) -> Any:
        """A progress callback `(done, total, message)` for a stage."""
        return lambda done, total, message: self.supervisor.tell(
            "progress", stage=stage, done=done, total=total, message=message
        )


def optimize(assignment: JobAssignment, supervisor: Supervisor) -> dict[str, Any]:
    """Do the job; the answer is the `result` of `protocol.py`, also where the engine breaks its budget.

    Raises:
        BurnishError: anything that the user can act on, naming stage and cause.
        HandOver: all is built, and another worker can run it.
    """
    attempt = Attempt(assignment, supervisor, Steps(supervisor, assignment.scratch))
    original = assignment.subject.handle()

    runtime = RUNTIMES[assignment.target["runtime"]]
    params = runtime.params.model_validate(assignment.target["params"])
    elsewhere = assignment.measuring_queue is not None
    lacking = unmeasured.hindrance(runtime, params, assignment.options, elsewhere=elsewhere)

    if runtime.device == "cuda" and lacking is None:
        attempt.device = "cuda"
    attempt.warnings += unscaled(attempt)
    optimized = original
    for number, step in enumerate(assignment.recipe["passes"]):
        optimized = run_pass(attempt, number, step, optimized)

    plain = runtime.baseline_params(params)
    unmodified, optimized = (taken(attempt, model, runtime.formats) for model in (original, optimized))
    if lacking is not None and not elsewhere:
        engine = build_engine(attempt, "build", runtime, params, optimized)
        samples = attempt.measuring_samples
        result, proof, told = attempt.steps.fresh(
            "verifying",
            lambda: unmeasured.conclude(attempt, lacking, unmodified, optimized, engine, samples),
        )
        built = Built(original, optimized, engine, engine, samples, proof)
        return packaged(attempt, runtime, params, built, result, told, [])
    baseline_engine = build_engine(attempt, "build:baseline", runtime, plain, unmodified)
    engine = build_engine(attempt, "build", runtime, params, optimized)
    if lacking is not None:
        raise HandOver(lacking)
    for each, given in ((baseline_engine, plain), (engine, params)):
        look_into(attempt, runtime, each, given)
    reference = reference_engine(attempt, original, runtime.device, params)

    samples = attempt.measuring_samples
    sides = [
        EngineUnderTest(runtime.name, side.root, side.entry, given.model_dump(mode="json"))
        for side, given in ((baseline_engine, plain), (engine, params))
    ]
    check_runtime(attempt, original, sides[0], samples)
    measured = measure_alone(attempt, runtime.device, sides, samples, reference)
    result = shape_result(original, baseline_engine, engine, measured, attempt.warnings)
    if assignment.advice is not None:
        against = {"runtime": runtime.name, "params": plain.model_dump(mode="json")}
        result["advice"] = followed(assignment.advice, against, result)
    built = Built(original, optimized, baseline_engine, engine, samples)
    return packaged(
        attempt,
        runtime,
        params,
        built,
        result,
        measured["machine"],
        measured["measurements"],
        measured["runs_ns"],
    )


def packaged(
    attempt: Attempt,
    runtime: RuntimeSpec,
    params: Params,
    built: Built,
    result: dict[str, Any],
    machine: Mapping[str, Any],
    measurements: list[dict[str, Any]],
    runs_ns: Mapping[str, Runs] | None = None,
) -> dict[str, Any]:
    """The `result` of `protocol.py`, once every artifact is written."""
    outcomes = attempt.steps.outcomes
    artifacts = attempt.steps.fresh(
        "packaging",
        lambda: package(
            attempt.assignment,
            runtime,
            params,
            built,
            outcomes,
            result,
            machine,
            attempt.supervisor,
            attempt.asides,
            measurements,
            runs_ns,
        ),
    )
    return {"result": result, "artifacts": artifacts, "measurements": measurements}


def check_runtime(
    attempt: Attempt, original: ModelHandle, baseline: EngineUnderTest, samples: Samples
) -> None:
    """Hold the baseline against the model's own framework.

    A large ONNX model on ONNX Runtime is not opened a second time for this: it is its own framework.
    """
    same = original.format == "onnx" and baseline.runtime.startswith("onnxruntime")
    if same and original.size_bytes > LARGE_BYTES:
        return

    def work() -> list[str]:
        implementation = runtimes.registry.alone(baseline.runtime)
        params = RUNTIMES[baseline.runtime].params.model_validate(baseline.params)
        engine = implementation.load(Engine(baseline.root, baseline.entry), params)
        precision = attempt.assignment.subject.facts["precision"]
        if precision == "fp32":
            precision = RUNTIMES[baseline.runtime].baseline_precision
        return verify_baseline(open_model(original), engine, samples, baseline.runtime, precision)

    attempt.warnings += attempt.steps.fresh("verifying", work)


def unscaled(attempt: Attempt) -> list[str]:
    """A warning for each dataset whose integers a model gets that takes floating point: mostly, scaling was forgotten."""
    assignment = attempt.assignment
    wanted = {entry["name"]: entry["dtype"] for entry in assignment.subject.signature["inputs"]}
    return [
        f"the dataset {dataset.name} holds {dtype} as {name!r}, which the model takes as {wanted[name]}: the values are cast "
        "and not scaled. If the network was trained on scaled ones, save them so, or declare a `normalize` transform"
        for id_, dataset in assignment.datasets.items()
        for name, (dtype, _) in attempt.dataset(id_).inputs.items()
        if dtype.startswith(("int", "uint")) and wanted.get(name, "").startswith("float")
    ]


def calibration_samples(attempt: Attempt) -> list[Samples]:
    """Every real dataset that a pass reads."""
    ids = {given for step in attempt.assignment.recipe["passes"] for given in step.get("inputs", {}).values()}
    return [attempt.dataset(id_) for id_ in sorted(ids & set(attempt.assignment.datasets))]


def measure_alone(
    attempt: Attempt,
    device: str,
    sides: Sequence[EngineUnderTest],
    samples: Samples,
    reference: EngineUnderTest | None,
) -> dict[str, Any]:
    """Measure baseline and engine in turns, and the reference, with the device to ourselves."""
    with _hinting(samples), alone(attempt.supervisor, device, [side.root for side in sides]):
        return attempt.steps.fresh(
            "measuring",
            lambda: measure(
                *sides,
                samples=samples,
                evaluation=attempt.assignment.evaluation,
                budget=attempt.assignment.budget,
                seed=attempt.assignment.seed,
                report=attempt.report("measuring"),
                scratch=attempt.assignment.scratch / "measure",
                read_by_passes=calibration_samples(attempt),
                seconds=attempt.assignment.measure_seconds,
                launches=attempt.assignment.measure_launches,
                reference=reference,
            ),
        )


@contextmanager
def _hinting(samples: Samples) -> Iterator[None]:
    """Say what helps where a model does not run on generated data."""
    try:
        yield
    except SignatureMismatch as error:
        if samples.synthetic and error.hint is None:
            error.hint = (
                "the model does not run on random inputs that fit its signature: upload a dataset of real ones and "
                "name it (`--evaluate`, `--dataset`), or say what its free dimensions are when you upload it (`--signature`)"
            )
        raise
