"""The forms that an engine can be packed in besides its bundle. The work is done in `workers/bundle/forms`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PackageName = Literal["triton", "docker", "mlflow"]

_TORCHSCRIPT = (
    "Triton's PyTorch backend runs TorchScript, and packages that were compiled for its own build of PyTorch; "
    "this engine is neither"
)
_JAX = "Triton has no backend for programs of JAX"


@dataclass(frozen=True)
class PackageSpec:
    """One form. `runtimes` are those whose engines it takes, None: all; `refused` says why of some others, `params` of values."""

    name: PackageName
    title: str
    documentation: str
    runtimes: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[tuple[str, str, Any], str] = field(default_factory=dict)  # (runtime, parameter, value)

    def refuses(self, runtime: str, params: Mapping[str, Any]) -> str | None:
        """Why an engine of this runtime with these parameters cannot be packed so; None: it can."""
        if self.runtimes is not None and runtime not in self.runtimes:
            return self.refused.get(
                runtime, f"nothing is known of how {self.title} would serve engines of {runtime}"
            )
        for (name, param, value), why in self.params.items():
            if name == runtime and params.get(param) == value:
                return why
        return None


_SPECS = (
    PackageSpec(
        name="triton",
        title="Triton Inference Server",
        documentation="A model repository with one model: `config.pbtxt`, and the engine as version 1. Requests are batched "
        "where every input and output has a free first dimension.",
        runtimes=frozenset(
            {"onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino-cpu", "tensorrt"}
        ),
        refused={
            "tensorrt-rtx": "Triton's TensorRT backend does not load engines of TensorRT for RTX",
            "torch-eager": _TORCHSCRIPT,
            "torch-eager-cuda": _TORCHSCRIPT,
            "torch-inductor-cpu": _TORCHSCRIPT,
            "torch-inductor-cuda": _TORCHSCRIPT,
            "xla-cpu": _JAX,
            "xla-tpu": _JAX,
        },
        params={
            (
                "onnxruntime-cpu",
                "engine_format",
                "ort",
            ): "Triton's ONNX Runtime backend loads `.onnx`: use engine_format=onnx",
            (
                "tensorrt",
                "strip",
                True,
            ): "Triton cannot put the weights back into a stripped engine: use strip=false",
        },
    ),
    PackageSpec(
        name="docker",
        title="A small server in a container",
        documentation="A Dockerfile, and a server of the Open Inference Protocol over HTTP and JSON that needs the engine's "
        "runtime and nothing else.",
    ),
    PackageSpec(
        name="mlflow",
        title="MLflow",
        documentation="A model folder of the flavor `python_function`, with its signature, for `mlflow models serve` and "
        "`mlflow.pyfunc.load_model`.",
    ),
)

PACKAGES: dict[str, PackageSpec] = {spec.name: spec for spec in _SPECS}
