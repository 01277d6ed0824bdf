"""OpenVINO on CPUs: the engine is an IR, compiled when it is loaded, with every property said explicitly."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.runtime_params.openvino import OpenVinoCpuParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import InvalidParams
from workers import openvino_model
from workers.distributions import versions_of
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.openvino_errors import refused
from workers.openvino_library import openvino
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.cpu_features import cpu_features
from workers.runtimes.openvino_coverage import coverage
from workers.runtimes.openvino_facts import compiled_facts, weight_counts
from workers.runtimes.openvino_loaded import LoadedOpenVino

SPEC = RUNTIMES["openvino-cpu"]
DEVICE = "CPU"
BLOB = "compiled.blob"
BLOB_KEY = (
    "compiled.json"  # what the blob was compiled for: all of it must be the same, or the IR is compiled
)
NEEDED = {  # for an inference precision: instruction sets, any of which makes it native
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "f16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


@implements(SPEC.name)
class OpenVinoCpu:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Write the model as an IR, and compile it once for its facts (see `openvino_facts.compiled_facts`).

        Facts, besides: `model_half_weights` (elements that the model held in half precision).

        Raises:
            UnsupportedOperator, InvalidModel: OpenVINO refuses the model; the error names node and cause.
            InvalidParams: this processor has no instructions for the inference precision.
        """
        assert isinstance(params, OpenVinoCpuParams)
        graph = openvino_model.read(model, "building")
        if model.format == openvino_model.FORMAT:
            openvino_model.copy(model, out)
        else:
            openvino_model.write(graph, out)
        compiled = _compile(openvino.Core(), graph, params, "building")
        if params.cache_compiled:
            (out / BLOB).write_bytes(compiled.export_model().getvalue())
            (out / BLOB_KEY).write_text(json.dumps(_blob_key(params)))
        facts = compiled_facts(graph, compiled)
        facts["model_half_weights"] = weight_counts(graph)["half_weights"]
        return Engine(out, openvino_model.ENTRY, facts)

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory: compiled, or taken from the blob where that was made for just this.

        Raises:
            InvalidModel, UnsupportedOperator: this machine or version cannot load it.
            InvalidParams: this processor has no instructions for the inference precision.
        """
        assert isinstance(params, OpenVinoCpuParams)
        core = openvino.Core()
        with refused("loading the engine with OpenVINO", stage="loading"):
            graph = core.read_model(str(engine.path))
            signature = openvino_model.signature_of(graph)
            if _blob_fits(engine, params):
                blob = (engine.root / BLOB).read_bytes()
                return _loaded(core.import_model(blob, DEVICE, properties(params)), signature, params)
        return _loaded(_compile(core, graph, params, "loading"), signature, params)

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, threads, inputs, conditions}.

        An IR is compiled for the processor that loads it: `cpu_features` names what the inference precision needs.
        Later versions of OpenVINO read the IR as well.
        """
        assert isinstance(params, OpenVinoCpuParams)
        needed = NEEDED.get(params.inference_precision, ())
        return {
            "runtime": "openvino",
            "version": versions_of(SPEC.packages)["openvino"],
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [name for name in needed if name in cpu_features()][:1],
            "threads": params.threads or usable_processors(),
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(
                conditions.openvino_cpu(
                    versions_of(SPEC.packages)["openvino"],
                    engine.facts,
                    needed,
                    _blob_key(params)["cpu"] if params.cache_compiled else None,
                )
            ),
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """See `openvino_coverage.coverage`."""
        return coverage(model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)


def properties(params: OpenVinoCpuParams) -> dict[str, Any]:
    """OpenVINO's properties for our parameters; none that matters is left to its own choice."""
    threads = params.threads or usable_processors()
    chosen: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": params.hint.upper(),
        "EXECUTION_MODE_HINT": params.execution_mode.upper(),
        # who runs the process decides which processors it may use: both sides of a measurement use the same ones
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,
        "CACHE_DIR": "",
        "LOG_LEVEL": "LOG_NONE",
    }
    if params.streams:
        chosen["NUM_STREAMS"] = min(params.streams, threads)
    if params.inference_precision != "auto":
        chosen["INFERENCE_PRECISION_HINT"] = params.inference_precision
    return chosen


def _loaded(compiled: Any, signature: Mapping[str, Any], params: OpenVinoCpuParams) -> LoadedEngine:
    return LoadedOpenVino(compiled, signature, several=params.hint == "throughput" or params.streams > 1)


def _compile(core: Any, graph: Any, params: OpenVinoCpuParams, stage: str) -> Any:
    with refused("compiling the model with OpenVINO", stage=stage):
        compiled = core.compile_model(graph, DEVICE, properties(params))
    wanted = params.inference_precision
    found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if wanted != "auto" and found != wanted:
        raise InvalidParams(
            f"this processor has no instructions for {wanted}: OpenVINO would compute in {found} instead",
            stage=stage,
            param="inference_precision",
            hint=f"set inference_precision to f32{', bf16' if found == 'bf16' else ''} or auto",
        )
    return compiled


def _blob_key(params: OpenVinoCpuParams) -> dict[str, Any]:
    return {
        "openvino": openvino.get_version(),
        "architecture": platform.machine(),
        "cpu": openvino.Core().get_property(DEVICE, "FULL_DEVICE_NAME"),
        "cpu_features": cpu_features(),
        "properties": properties(params),
    }


def _blob_fits(engine: Engine, params: OpenVinoCpuParams) -> bool:
    key = engine.root / BLOB_KEY
    return params.cache_compiled and key.is_file() and json.loads(key.read_text()) == _blob_key(params)
