"""ONNX Runtime on GPUs: sessions that never fall back in silence, tensors bound to the GPU, and which nodes run where."""

import platform
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import GraphOptimizationLevel, InferenceSession, IOBinding, OrtValue, SessionOptions

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeGpuParams
from app.catalog.spec import Params, RuntimeSpec
from app.errors import InvalidParams, Unavailable, UnsupportedOperator
from workers.distributions import versions_of
from workers.gpu import compute_capability
from workers.model_handle import ModelHandle
from workers.onnx_errors import refused
from workers.runtimes import conditions
from workers.runtimes.base import Coverage, Engine, Feeds, LoadedEngine
from workers.runtimes.onnxruntime_coverage import coverage
from workers.runtimes.onnxruntime_session import (
    LoadedOnnxRuntime,
    disabled_optimizers,
    refused_run,
    silent_options,
)

CPU = "CPUExecutionProvider"
NAMED = 10  # nodes on the CPU that are named; all are counted
RECORD = "session.record_ep_graph_assignment_info"
Provider = tuple[str, Mapping[str, str]]


def gpu_session(
    path: Path,
    options: SessionOptions,
    providers: Sequence[Provider],
    stage: str,
    disabled: Sequence[str] = (),
) -> InferenceSession:
    """A session of which the first provider is really there; nodes that it has no kernel for may run on the others.

    `disabled`: optimizers that are left out.

    Raises:
        Unavailable: the provider cannot be made here: its libraries or a GPU are missing.
        InvalidModel, UnsupportedOperator: it refuses the model.
    """
    wanted = providers[0][0]
    if wanted not in onnxruntime.get_available_providers():
        raise _missing(f"this ONNX Runtime was built without {wanted}", stage)
    onnxruntime.preload_dlls()
    with refused(f"making a session with {wanted}", stage=stage):
        session = InferenceSession(
            str(path),
            options,
            providers=[(name, dict(given)) for name, given in providers],
            enable_fallback=0,
            disabled_optimizers=list(disabled),
        )
    if wanted not in session.get_providers():
        raise _missing(
            f"ONNX Runtime could not load {wanted} or its libraries (CUDA, cuDNN, TensorRT)", stage
        )
    return session


def placement(session: InferenceSession) -> dict[str, Any]:
    """Where the nodes run: {providers: {provider: nodes}, on_cpu: {count, operators, nodes}}, of a session that recorded it."""
    providers: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    named: list[str] = []
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        providers[part.ep_name] += len(nodes)
        if part.ep_name == CPU:
            operators.update(node.op_type for node in nodes)
            named += [node.name for node in nodes if node.name]
    on_cpu = {"count": providers.get(CPU, 0), "operators": dict(operators), "nodes": named[:NAMED]}
    return {"providers": dict(providers), "on_cpu": on_cpu}


def check_placement(found: Mapping[str, Any], *, refuse: bool) -> None:
    """Raises UnsupportedOperator where nodes run on the CPU and that is to be refused; it names the first."""
    on_cpu = found["on_cpu"]
    if refuse and on_cpu["count"]:
        raise UnsupportedOperator(
            f"{on_cpu['count']} nodes would run on the CPU: {_listed(on_cpu['operators'])}",
            stage="building",
            node=next(iter(on_cpu["nodes"]), None),
            param="cpu_nodes",
            hint="allow it with cpu_nodes=report, or change these operators in the model",
        )


def explained(found: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Sentences for `comparison.why`."""
    providers, on_cpu = found["providers"], found["on_cpu"]
    total = sum(providers.values())
    sentences = []
    if on_cpu["count"]:
        sentences.append(
            f"{on_cpu['count']} of {total} nodes run on the CPU, having no kernel on the GPU or computing shapes: "
            f"{_listed(on_cpu['operators'])}."
        )
    if copies := sum(facts["operators"].get(kind, 0) for kind in ("MemcpyToHost", "MemcpyFromHost")):
        sentences.append(f"{copies} copies between GPU and CPU stand inside the graph.")
    pairs = facts["conversions"]
    if quantized := pairs.get("QuantizeLinear", 0) + pairs.get("DequantizeLinear", 0):
        sentences.append(
            f"{quantized} conversions between 8 bits and floating point remain: the CUDA provider computes quantized layers "
            "in floating point. TensorRT fuses them."
        )
    return sentences


class BoundOnnxRuntime(LoadedOnnxRuntime):
    """A session whose inputs and outputs are bound to memory of the GPU; `run` copies there, computes, and copies back.

    With `fixed`, as CUDA graphs need it, both keep their addresses from run to run, so every size must be fixed.

    Raises:
        InvalidParams: `fixed`, and an input or output has a free dimension.
        UnsupportedOperator: as `LoadedOnnxRuntime`.
    """

    def __init__(self, session: InferenceSession, *, fixed: bool):
        super().__init__(session)
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue] = {}
        self._shapes = {entry["name"]: (entry["dtype"], entry["shape"]) for entry in self.inputs}
        if fixed:
            for entry in (*self.inputs, *self.outputs):
                _check_fixed(entry)
            self._outputs = {
                entry["name"]: OrtValue.ortvalue_from_shape_and_type(
                    entry["shape"], np.dtype(entry["dtype"]), "cuda", 0
                )
                for entry in self.outputs
            }

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name. Raises as `LoadedOnnxRuntime.run`."""
        with refused_run():
            binding = self._bound(feeds)
            self._session.run_with_iobinding(binding)
            values = binding.copy_outputs_to_cpu()
        return dict(zip(self._names, values, strict=True))

    def _bound(self, feeds: Feeds) -> IOBinding:
        if set(feeds) != set(self._shapes):
            raise ValueError(
                f"it takes {', '.join(map(repr, self._shapes))}; given were {', '.join(map(repr, feeds))}"
            )
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self._on_gpu(name, array))
        for name in self._names:
            if name in self._outputs:
                binding.bind_ortvalue_output(name, self._outputs[name])
            else:
                binding.bind_output(name, "cuda", 0)
        return binding

    def _on_gpu(self, name: str, array: np.ndarray) -> OrtValue:
        """The array in memory of the GPU, that of the last run where it fits."""
        if array.dtype.name != self._shapes[name][0]:
            raise ValueError(f"input {name!r} takes {self._shapes[name][0]}, given was {array.dtype.name}")
        given = np.ascontiguousarray(array)
        held = self._inputs.get(name)
        if held is None or list(held.shape()) != list(given.shape):
            self._inputs[name] = held = OrtValue.ortvalue_from_numpy(given, "cuda", 0)
        else:
            held.update_inplace(given)
        return held


class OnnxRuntimeGpu(ABC):
    """What the runtimes of ONNX Runtime on NVIDIA GPUs have in common; see `base.Runtime`."""

    spec: RuntimeSpec
    compiled: bool  # whether an engine holds code for one kind of GPU

    @abstractmethod
    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """See `base.Runtime.build`."""

    @abstractmethod
    def providers(self, params: Params) -> list[Provider]:
        """The providers with their options, the wanted one first."""

    def built(
        self, model: ModelHandle, options: SessionOptions, params: OnnxRuntimeGpuParams
    ) -> dict[str, Any]:
        """Make a session whose options save the engine; facts: those of `placement`, and `compute_capability`.

        Raises:
            Unavailable: there is no GPU or no such provider here.
            UnsupportedOperator, InvalidModel: ONNX Runtime refuses the model, or nodes would run on the CPU and may not.
        """
        capability = compute_capability()
        options.add_session_config_entry(RECORD, "1")
        disabled = disabled_optimizers(model)
        session = gpu_session(model.path, options, self.providers(params), "building", disabled)
        found = placement(session)
        check_placement(found, refuse=params.cpu_nodes == "refuse")
        return {**found, "hardware_layout": False, "compute_capability": capability}

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory of the GPU. Raises as `gpu_session`, and InvalidParams as `BoundOnnxRuntime`."""
        return self.open(engine, params, self.options(params))

    def options(self, params: Params) -> SessionOptions:
        """How an engine is loaded."""
        options = silent_options()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def open(self, engine: Engine, params: Params, options: SessionOptions) -> BoundOnnxRuntime:
        """As `load`, with options that may say more."""
        assert isinstance(params, OnnxRuntimeGpuParams)
        session = gpu_session(engine.path, options, self.providers(params), "loading")
        return BoundOnnxRuntime(session, fixed=params.cuda_graph)

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, compute_capability, conditions,
        inputs}."""
        capability = engine.facts["compute_capability"]
        return {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "device": self.spec.device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "compute_capability": capability,
            "conditions": conditions.listed(
                conditions.onnxruntime_gpu(onnxruntime.__version__, capability, compiled=self.compiled)
            ),
            "inputs": self.load(engine, params).inputs,
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """What ONNX Runtime runs at all: nodes without a kernel on the GPU run on the CPU."""
        return coverage(model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(self.spec.packages)


def _check_fixed(entry: Mapping[str, Any]) -> None:
    if not all(isinstance(dim, int) for dim in entry["shape"]):
        raise InvalidParams(
            f"{entry['name']!r} has a free dimension {entry['shape']}, and a CUDA graph needs fixed sizes",
            param="cuda_graph",
            hint="put the pass `set-shapes` into the recipe, or leave cuda_graph out",
        )


def _missing(text: str, stage: str) -> Unavailable:
    return Unavailable(
        text,
        stage=stage,
        hint="install onnxruntime-gpu[cuda,cudnn] in place of onnxruntime on a machine with an NVIDIA GPU; for TensorRT also "
        "its libraries",
    )


def _listed(operators: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count} {kind}" for kind, count in sorted(operators.items(), key=lambda item: -item[1])
    )
