"""Engines that cannot run where they are built: what is told of them instead of measurements, and what they promise.

Nothing is said of the engine's speed or accuracy. The optimized *model* is held against the original, on ONNX Runtime's CPU
provider or in its own framework, which shows what the passes did to it, and gives the outputs that `burnish check` holds the
engine to where it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params, RuntimeSpec
from app.errors import BurnishError, NoWorker
from workers import formats, runtimes
from workers.bundle.proof import Proof
from workers.context import Samples
from workers.feeds import paired_plans
from workers.formats.base import Source
from workers.measure.environment import machine
from workers.measure.fidelity import Fidelity
from workers.measure.side_by_side import run_side_by_side
from workers.model_handle import ModelHandle
from workers.runtimes.base import AheadOfTime, Engine, Feeds, LoadedEngine
from workers.runtimes.torch_eager import LoadedEager

if TYPE_CHECKING:
    from workers.pipeline import Attempt

STAND_IN = "onnxruntime-cpu"
SAMPLES = 64  # that the models are compared on
LEAST_TOLERANCE = 0.02  # of an output's largest value: another device adds up in another order and precision


def hindrance(
    runtime: RuntimeSpec, params: Params, options: Mapping[str, Any], *, elsewhere: bool
) -> str | None:
    """Why an engine cannot run on this machine; None: it can. `elsewhere`: another worker goes on where it cannot.

    Raises:
        NoWorker: it cannot, nobody goes on, and the request does not allow an engine without measurements.
    """
    if not runtime.ahead_of_time:
        return None
    implementation = runtimes.registry.alone(runtime.name)
    assert isinstance(implementation, AheadOfTime)
    why = implementation.hindrance(params)
    if why is not None and not elsewhere and not options.get("allow_unmeasured"):
        raise NoWorker(
            f"the engine could be built here, but neither verified nor measured: {why}",
            stage="building",
            param="options.allow_unmeasured",
            hint="set options.allow_unmeasured (`--allow-unmeasured`) to take an unverified engine, which `burnish check` verifies "
            "where it can run; or start a worker on a machine with such a device",
        )
    return why


@dataclass
class Shaped:
    """A loaded engine that says it takes the shapes of another: the ones that an engine's first profile is best at."""

    loaded: LoadedEngine
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """As the engine behind it."""
        return self.loaded.run(feeds)


def conclude(
    attempt: "Attempt",
    why: str,
    original: ModelHandle,
    optimized: ModelHandle,
    engine: Engine,
    samples: Samples,
) -> tuple[dict[str, Any], Proof, dict[str, Any]]:
    """The job's `result` with nulls for what was not measured, the proof for its bundle, and the machine.

    `original` and `optimized` are as the runtime took them.
    """
    shapes = _best_shapes(engine)
    before = _stand_in(original)
    told: list[str] = []
    try:
        after: LoadedEngine | None = _stand_in(optimized)
    except BurnishError as error:
        after = None
        told.append(
            f"the optimized model was not compared with the original, as it does not run here: {error.detail}"
        )
    fidelity = None
    if after is not None:
        fidelity, warnings = _compare(before, after, samples)
        told += warnings
    told.append(f"nothing was measured or verified on the engine: {why}")
    signature = _implementation(attempt).signature(engine)
    result = _result(attempt, why, original, engine, fidelity, told)
    shaped, promising = _shaped(before, shapes), _shaped(after or before, shapes)
    proof = Proof(shaped, promising, signature, {"inputs": shaped.inputs}, LEAST_TOLERANCE)
    return result, proof, machine()


def _implementation(attempt: "Attempt") -> AheadOfTime:
    implementation = runtimes.registry.alone(attempt.assignment.target["runtime"])
    assert isinstance(implementation, AheadOfTime)
    return implementation


def _result(
    attempt: "Attempt",
    why: str,
    original: ModelHandle,
    engine: Engine,
    fidelity: dict[str, Any] | None,
    warnings: list[str],
) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("latency", "throughput_per_s", "concurrency", "peak_memory_bytes", "peak_gpu_memory_bytes", "load_ms", "accuracy")
    )  # fmt: skip
    budget = attempt.assignment.budget
    return {
        "reference": None,
        "baseline": {"size_bytes": original.size_bytes, **unknown},
        "optimized": {"size_bytes": engine.size_bytes, **unknown},
        "comparison": {
            "speedup": None,
            "control": None,
            "speedup_over_reference": None,
            "fidelity": {"outputs": {}},
            "model_fidelity": fidelity,
            "accuracy_drop": None,
            "within_budget": "undecided" if budget else None,
            "max_drop": budget["max_drop"] if budget else None,
            "samples_needed": None,
            "size_ratio": engine.size_bytes / original.size_bytes,
            "why": list(engine.facts.get("explained", [])),
        },
        "verification": "unverified",
        "unverified_reason": why,
        "warnings": [*attempt.warnings, *warnings],
    }


def _stand_in(model: ModelHandle) -> LoadedEngine:
    """A model as it is: ONNX in ONNX Runtime, without its graph optimizations, another in its own framework."""
    if model.format != "onnx":
        return LoadedEager(
            formats.registry.alone(model.format).open(Source(model.root, model.entry, model.declared))
        )
    spec = RUNTIMES[STAND_IN]
    return runtimes.registry.alone(STAND_IN).load(Engine(model.root, model.entry), spec.params())


def _best_shapes(engine: Engine) -> dict[str, list[int]]:
    """By input with free dimensions: the shape that its first profile is best at."""
    profiles = engine.facts.get("profiles") or [{}]
    return {name: list(best) for name, (_, best, _) in profiles[0].items()}


def _shaped(loaded: LoadedEngine, shapes: Mapping[str, list[int]]) -> Shaped:
    inputs = [{**entry, "shape": shapes.get(entry["name"], entry["shape"])} for entry in loaded.inputs]
    return Shaped(loaded, inputs, loaded.outputs)


def _compare(
    before: LoadedEngine, after: LoadedEngine, samples: Samples
) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        paired_plans(before.inputs, after.inputs, samples.inputs)
        fidelity = Fidelity()
        for run in run_side_by_side(before, after, samples, min(samples.count, SAMPLES)):
            fidelity.observe(run)
    except BurnishError as error:
        return None, [
            f"the optimized model was not compared with the original, as they do not run on the data: {error.detail}"
        ]
    return fidelity.result(), fidelity.warnings()
