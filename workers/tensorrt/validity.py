"""Where an engine is valid, as conditions on a machine (`app.artifacts.envelope`)."""

import platform
from typing import Any

from app.artifacts.envelope import Condition, any_of, at_least, equal
from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from workers.runtimes.base import Engine
from workers.runtimes.conditions import listed

AMPERE = "8.0"


def validity_of(
    runtime: str, version: str, engine: Engine, params: TensorRtParams | TensorRtRtxParams
) -> dict[str, Any]:
    """{compute_capability, conditions}: `compute_capability` is one, several with commas, or None for all."""
    capabilities = engine.facts["compute_capabilities"]
    return {
        "compute_capability": ", ".join(capabilities) or None,
        "conditions": listed([*_version(runtime, version, params), *_gpu(capabilities, params)]),
    }


def _version(runtime: str, version: str, params: TensorRtParams | TensorRtRtxParams) -> list[Condition]:
    package = f"package:{runtime}"
    needed = [
        equal("system", platform.system(), "no", "the engine is laid out for this system"),
        equal("architecture", platform.machine(), "no", "the engine is laid out for this kind of processor"),
    ]
    if isinstance(params, TensorRtParams) and params.version_compatible:
        major = version.split(".")[0]
        return [
            *needed,
            at_least(package, version, "no", f"later versions of {major} read it, older ones do not"),
        ]
    return [*needed, equal(package, version, "no", "a plan is read by the version that built it alone")]


def _gpu(capabilities: list[str], params: TensorRtParams | TensorRtRtxParams) -> list[Condition]:
    if not capabilities:
        return []
    if isinstance(params, TensorRtParams) and params.hardware_compatibility == "ampere_plus":
        return [at_least("compute_capability", AMPERE, "no", "it was built for GPUs from Ampere on")]
    return [any_of("compute_capability", capabilities, "no", "its kernels are for these GPUs")]
