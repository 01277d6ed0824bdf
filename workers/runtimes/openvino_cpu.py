"""OpenVINO on CPUs, with every property said explicitly."""

import platform
from typing import Any

from app.catalog.runtime_params.openvino import OpenVinoCpuParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.measure.processors import usable_processors
from workers.runtimes import conditions, implements
from workers.runtimes.base import Engine
from workers.runtimes.cpu_features import cpu_features
from workers.runtimes.openvino_device import OpenVinoDevice
from workers.runtimes.openvino_facts import compiled_facts

SPEC = RUNTIMES["openvino-cpu"]
NEEDED = {  # for an inference precision: instruction sets, any of which makes it native
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "f16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


@implements(SPEC.name)
class OpenVinoCpu(OpenVinoDevice):
    """See `base.Runtime`."""

    spec = SPEC
    device = "CPU"

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, threads, inputs, conditions}.

        An IR is compiled for the processor that loads it: `cpu_features` names what the inference precision needs.
        Later versions of OpenVINO read the IR as well.
        """
        assert isinstance(params, OpenVinoCpuParams)
        needed = NEEDED.get(params.inference_precision, ())
        version = self.versions()["openvino"]
        return {
            "runtime": "openvino",
            "version": version,
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [name for name in needed if name in cpu_features()][:1],
            "threads": params.threads or usable_processors(),
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(
                conditions.openvino_cpu(
                    version, engine.facts, needed, self.device_name() if params.cache_compiled else None
                )
            ),
        }

    def facts(self, graph: Any, compiled: Any) -> dict[str, Any]:
        """See `openvino_facts.compiled_facts`."""
        return compiled_facts(graph, compiled)

    def properties(self, params: OpenVinoCpuParams) -> dict[str, Any]:
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
        if params.sparse_weights_rate < 1:
            chosen["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = params.sparse_weights_rate
        if params.streams:
            chosen["NUM_STREAMS"] = min(params.streams, threads)
        if params.inference_precision != "auto":
            chosen["INFERENCE_PRECISION_HINT"] = params.inference_precision
        return chosen

    def blob_key(self, params: Params) -> dict[str, Any]:
        """The instruction sets too: what hides some of them (a virtual machine) does not change the processor's name."""
        return {**super().blob_key(params), "cpu_features": cpu_features()}
