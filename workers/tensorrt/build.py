"""Building: parse, hold profiles and number types against the target, configure, build, and say why where it fails."""

from pathlib import Path
from typing import Any

from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from app.errors import InvalidParams, Unavailable
from workers.gpu import gpus
from workers.memory import Memory
from workers.model_handle import ModelHandle
from workers.onnx_nodes import nodes_of
from workers.tensorrt import precision, profiles, rtx, timings
from workers.tensorrt.failure import build_failure
from workers.tensorrt.library import Library
from workers.tensorrt.logger import complaints, listen, warnings
from workers.tensorrt.parse import parse
from workers.tensorrt.progress import Report, monitor
from workers.tensorrt.signature import network_signature

ENTRY = "engine.plan"
WEIGHTS_FOLDER = "model"  # the ONNX model, beside an engine that was stripped of its weights
HARDWARE = {
    "none": "NONE",
    "ampere_plus": "AMPERE_PLUS",
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
}
NEEDS_GPU = ("refit", "strip")
Params = TensorRtParams | TensorRtRtxParams


def build_plan(
    library: Library,
    model: ModelHandle,
    params: Params,
    out: Path,
    report: Report,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Write `engine.plan` into `out`. Facts: `signature`, `profiles` [{input: [min, opt, max]}], `library_warnings`, and
    `timing_cache` (see `timings.keep`) where timings are kept.

    Raises:
        Unavailable: the library builds for the GPU of this machine, and there is none.
        InvalidParams: a profile does not fit the model; a GPU has no instructions for the model's types; a parameter needs
            a GPU here.
        UnsupportedOperator, InvalidModel, OutOfMemory: the library refuses the model; node and cause are named.
    """
    check_machine(library, params)
    proto = model.load_onnx(weights=False)
    if isinstance(params, TensorRtRtxParams):
        precision.check(proto, params.compute_capabilities)
    heard = listen(library)
    parsed = parse(library, model, heard)
    signature = network_signature(parsed.network)
    ranges = profiles.resolve(params, profiles.network_inputs(parsed.network))
    config = configure(library, parsed.builder, params, ranges)
    watching = monitor(library, report)  # the library does not keep it alive
    config.progress_monitor = watching
    timed = None
    if memory is not None and isinstance(params, TensorRtParams) and params.timing_cache:
        timed = timings.attach(library, config, params, memory, heard)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise build_failure(complaints(heard), (node.name for node in nodes_of(proto)), library.runtime)
    (out / ENTRY).write_bytes(plan)
    return {
        "signature": signature,
        "profiles": [{name: [list(shape) for shape in one] for name, one in each.items()} for each in ranges],
        "library_warnings": warnings(heard),
        **({"timing_cache": timings.keep(config, timed, memory)} if timed and memory else {}),
    }


def check_machine(library: Library, params: Params) -> None:
    """Hold what is asked for against this machine. Raises Unavailable, InvalidParams."""
    if gpus():
        return
    if not library.across:
        raise Unavailable(
            f"{library.runtime} builds for the GPU of the machine that it runs on, and there is none here",
            stage="building",
            hint="let a worker with an NVIDIA GPU serve this runtime; `tensorrt-rtx` builds without one",
            retryable=False,
        )
    for name in NEEDS_GPU:
        if getattr(params, name):
            raise InvalidParams(
                f"{library.runtime} builds an engine with {name} only where there is a GPU, and there is none here",
                stage="building",
                param=name,
                hint=f"leave {name} out, or let a worker with an NVIDIA GPU serve this runtime",
            )


def configure(library: Library, builder: Any, params: Params, ranges: list[dict[str, profiles.Range]]) -> Any:
    """The builder's configuration for our parameters.

    Raises:
        InvalidParams: the library refuses a profile that passed our own checks.
    """
    trt = library.trt
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = params.optimization_level
    if params.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, params.workspace_mib * 2**20)
    _set(config, trt.BuilderFlag.TF32, params.tf32)
    _set(config, trt.BuilderFlag.SPARSE_WEIGHTS, params.sparse_weights)
    _set(config, trt.BuilderFlag.REFIT, params.refit)
    _set(config, trt.BuilderFlag.STRIP_PLAN, params.strip)
    _set(config, trt.BuilderFlag.WEIGHT_STREAMING, params.weight_streaming)
    if isinstance(params, TensorRtRtxParams):
        rtx.set_capabilities(library, config, params)
    else:
        _set(config, trt.BuilderFlag.VERSION_COMPATIBLE, params.version_compatible)
        _set(config, trt.BuilderFlag.DISABLE_TIMING_CACHE, not params.timing_cache)
        config.hardware_compatibility_level = getattr(
            trt.HardwareCompatibilityLevel, HARDWARE[params.hardware_compatibility]
        )
    for number, each in enumerate(ranges):
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in each.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise InvalidParams(
                f"{library.runtime} refuses the profile {each}", stage="building", param=f"profiles[{number}]"
            )
    return config


def _set(config: Any, flag: Any, wanted: bool) -> None:
    if wanted:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)
