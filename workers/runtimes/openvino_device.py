"""What OpenVINO's runtimes share: an engine is an IR, compiled for a device when it is loaded. One subclass a device."""

import json
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from app.catalog.spec import Params, RuntimeSpec
from app.errors import InvalidParams, Unavailable
from workers import openvino_model
from workers.distributions import versions_of
from workers.model_handle import ModelHandle
from workers.onnx_errors import without_folders
from workers.openvino_errors import OPENVINO_ERRORS, refused
from workers.openvino_library import openvino
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.openvino_coverage import coverage
from workers.runtimes.openvino_facts import weight_counts
from workers.runtimes.openvino_loaded import LoadedOpenVino

BLOB = "compiled.blob"
BLOB_KEY = (
    "compiled.json"  # what the blob was compiled for: all of it must be the same, or the IR is compiled
)
PRECISION = "INFERENCE_PRECISION_HINT"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class OpenVinoDevice(ABC):
    """See `base.Runtime`. `device` is what OpenVINO calls it."""

    spec: RuntimeSpec
    device: str

    @abstractmethod
    def properties(self, params: Any) -> dict[str, Any]:
        """OpenVINO's properties for our parameters; none that matters is left to its own choice."""

    @abstractmethod
    def facts(self, graph: Any, compiled: Any) -> dict[str, Any]:
        """What is told of a compiled network, with the keys of `onnx_facts.graph_facts`."""

    @abstractmethod
    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Write the model as an IR, and compile it once for its facts.

        Facts, besides those of `facts`: `model_half_weights` (elements that the model held in half precision).

        Raises:
            UnsupportedOperator, InvalidModel: OpenVINO refuses the model; the error names node and cause.
            InvalidParams: the device does not compute in the inference precision.
            Unavailable: OpenVINO has no such device here.
        """
        core = self.core("building")
        graph = openvino_model.read(model, "building")
        if model.format == openvino_model.FORMAT:
            openvino_model.copy(model, out)
        else:
            openvino_model.write(graph, out)
        compiled = self._compile(core, graph, params, "building")
        if self._caches(params):
            (out / BLOB).write_bytes(compiled.export_model().getvalue())
            (out / BLOB_KEY).write_text(json.dumps(self.blob_key(params)))
        facts = self.facts(graph, compiled)
        facts["model_half_weights"] = weight_counts(graph)["half_weights"]
        return Engine(out, openvino_model.ENTRY, facts)

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory: compiled, or taken from the blob where that was made for just this.

        Raises:
            InvalidModel, UnsupportedOperator: this machine or version cannot load it.
            InvalidParams: the device does not compute in the inference precision.
            Unavailable: OpenVINO has no such device here.
        """
        core = self.core("loading")
        with refused("loading the engine with OpenVINO", stage="loading"):
            graph = core.read_model(str(engine.path))
            signature = openvino_model.signature_of(graph)
            if self._blob_fits(engine, params):
                blob = (engine.root / BLOB).read_bytes()
                compiled = core.import_model(blob, self.device, self.properties(params))
                return LoadedOpenVino(compiled, signature, several=_several(params))
        compiled = self._compile(core, graph, params, "loading")
        return LoadedOpenVino(compiled, signature, several=_several(params))

    def load_counting(self, engine: Engine, params: Params) -> LoadedOpenVino:
        """As `load`, compiled so that it counts the time of its nodes; one request at a time."""
        core = self.core("loading")
        with refused("loading the engine with OpenVINO", stage="loading"):
            graph = core.read_model(str(engine.path))
        compiled = self._compile(core, graph, params, "loading", {"PERF_COUNT": True})
        return LoadedOpenVino(compiled, openvino_model.signature_of(graph), several=False)

    def coverage(self, model: ModelHandle) -> Coverage:
        """See `openvino_coverage.coverage`. Raises Unavailable where OpenVINO has no such device here."""
        self.core("validating")
        return coverage(model, self.device)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(self.spec.packages)

    def core(self, stage: str) -> Any:
        """OpenVINO with the device.

        Raises:
            Unavailable: there is none, or its driver is missing.
        """
        core = openvino.Core()
        if any(name.split(".")[0] == self.device for name in core.available_devices):
            return core
        raise Unavailable(
            f"OpenVINO has no device {self.device} here, only {', '.join(core.available_devices)}: "
            f"{_why_absent(core, self.device)}",
            stage=stage,
            hint="run it on a machine that has one, with its driver installed",
            retryable=False,
        )

    def blob_key(self, params: Params) -> dict[str, Any]:
        """All that a compiled network depends on: where one thing differs it is not used."""
        return {
            "openvino": openvino.get_version(),
            "architecture": platform.machine(),
            "device": self.device_name(),
            "properties": self.properties(params),
        }

    def device_name(self) -> str:
        """The device's full name."""
        return str(openvino.Core().get_property(self.device, "FULL_DEVICE_NAME"))

    def computed_in(self, compiled: Any) -> str | None:
        """OpenVINO's type that a compiled network computes floating point in; None where the device does not tell."""
        told = PRECISION in compiled.get_property("SUPPORTED_PROPERTIES")
        return str(compiled.get_property(PRECISION).to_string()) if told else None

    def _compile(
        self, core: Any, graph: Any, params: Any, stage: str, more: Mapping[str, Any] = NOTHING
    ) -> Any:
        with refused("compiling the model with OpenVINO", stage=stage):
            compiled = core.compile_model(graph, self.device, {**self.properties(params), **more})
            found = self.computed_in(compiled)
        wanted = params.inference_precision
        if wanted != "auto" and found not in (None, wanted):
            which = "processor" if self.device == "CPU" else "device"
            raise InvalidParams(
                f"this {which} has no instructions for {wanted}: OpenVINO would compute in {found} instead",
                stage=stage,
                param="inference_precision",
                hint=f"set inference_precision to f32{', bf16' if found == 'bf16' else ''} or auto",
            )
        return compiled

    def _caches(self, params: Any) -> bool:
        return bool(params.cache_compiled)

    def _blob_fits(self, engine: Engine, params: Params) -> bool:
        key = engine.root / BLOB_KEY
        return self._caches(params) and key.is_file() and json.loads(key.read_text()) == self.blob_key(params)


def _several(params: Any) -> bool:
    return bool(params.hint == "throughput" or getattr(params, "streams", 0) > 1)


def _why_absent(core: Any, device: str) -> str:
    try:
        core.get_property(device, "FULL_DEVICE_NAME")
    except OPENVINO_ERRORS as error:
        lines = without_folders(str(error)).strip().splitlines()
        return lines[-1][:300] if lines else "it does not say why"
    return "it is not listed"
