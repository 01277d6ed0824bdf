"""The engines of an attempt, each a stored step: of the optimized model, of the baseline, of the reference."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.formats import FORMATS
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params, RuntimeSpec
from app.errors import UnsupportedOperator
from workers import runtimes
from workers.distributions import versions_of
from workers.measure.environment import hardware_key
from workers.measure.latency import EngineUnderTest
from workers.memory import StepMemory
from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine, LookedInto, Reporting

if TYPE_CHECKING:
    from workers.pipeline import Attempt

REFERENCES = {
    "cuda": "torch-eager-cuda"
}  # the runtime of `result.reference`, by the target's device; elsewhere:
REFERENCE = "torch-eager"


def build_engine(
    attempt: "Attempt", name: str, runtime: RuntimeSpec, params: Params, model: ModelHandle
) -> Engine:
    """The engine of a model; the machine is part of the cause where engines are laid out for the one that builds them."""
    implementation = runtimes.registry.alone(runtime.name)

    def work(out: Path) -> dict[str, Any]:
        if isinstance(implementation, Reporting):
            memory = StepMemory(attempt.supervisor, attempt.assignment.scratch)
            engine = implementation.build_reporting(model, params, out, attempt.report(name), memory)
        else:
            engine = implementation.build(model, params, out)
        return {"entry": engine.entry, "engine": engine.facts}

    cause = {
        "runtime": runtime.name,
        "version": runtime.version,
        "params": params.model_dump(mode="json"),
        "input": model.digest,
        "declared": dict(model.declared),
        "packages": {**implementation.versions(), **versions_of(runtime.builders)},
        "hardware": None if runtime.ahead_of_time else hardware_key(runtime.device),
    }
    outcome = attempt.steps.stored(name, cause, work)
    return Engine(outcome.root, outcome.facts["entry"], outcome.facts["engine"])


def reference_engine(
    attempt: "Attempt", original: ModelHandle, device: str, params: Params
) -> EngineUnderTest | None:
    """The model in its source framework, with as many threads as the target has; None where ONNX was uploaded."""
    if not FORMATS[original.format].reference:
        return None
    runtime = RUNTIMES[REFERENCES.get(device, REFERENCE)]
    threads = getattr(params, "threads", 0)
    own = runtime.params.model_validate(
        {"threads": threads} if "threads" in runtime.params.model_fields else {}
    )
    try:
        engine = build_engine(attempt, "build:reference", runtime, own, original)
    except UnsupportedOperator as error:
        attempt.warnings.append(f"the model's own framework was not measured beside: {error.detail}")
        return None
    return EngineUnderTest(runtime.name, engine.root, engine.entry, own.model_dump(mode="json"))


def look_into(attempt: "Attempt", runtime: RuntimeSpec, engine: Engine, params: Params) -> None:
    """Add to an engine's facts what its device alone can tell, wherever it was built."""
    implementation = runtimes.registry.alone(runtime.name)
    if isinstance(implementation, LookedInto):
        engine.facts.update(
            attempt.steps.fresh("inspecting", lambda: implementation.look_into(engine, params))
        )
