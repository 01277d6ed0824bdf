"""What a bundle's sample inputs are run on: the engines themselves, or what stands in for one that cannot run here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.catalog.spec import Params, RuntimeSpec
from workers import runtimes
from workers.bundle.samples import LEAST_RELATIVE_TOLERANCE
from workers.runtimes.base import Engine, LoadedEngine


@dataclass(frozen=True)
class Proof:
    """`engine` gives the outputs that are promised, `baseline` those of the original beside them.

    `signature` is what the engine takes and gives; generated samples fit `generated` ({inputs: [{name, dtype, shape}]}).
    `least_tolerance` is the share of an output's largest value that it may be off by, at least.
    """

    baseline: LoadedEngine
    engine: LoadedEngine
    signature: Mapping[str, list[dict[str, Any]]]
    generated: Mapping[str, Any]
    least_tolerance: float = LEAST_RELATIVE_TOLERANCE


def of_engines(
    runtime: RuntimeSpec, params: Params, baseline: Engine, engine: Engine, subject: Mapping[str, Any]
) -> Proof:
    """Both engines, loaded here. `subject` is the signature of the model that was uploaded."""
    implementation = runtimes.registry.alone(runtime.name)
    loaded = implementation.load(engine, params)
    return Proof(
        implementation.load(baseline, runtime.baseline_params(params)),
        loaded,
        {"inputs": loaded.inputs, "outputs": loaded.outputs},
        subject,
    )
