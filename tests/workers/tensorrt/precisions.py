"""A network brought to a precision by the passes that TensorRT reads it from, and built."""

from pathlib import Path
from typing import Any

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from tests.workers.tensorrt.networks import Exported
from workers import passes, runtimes
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine

RTX = "tensorrt-rtx"
PASS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "fp32": None,
    "fp16": ("to-fp16", {}),
    "bf16": ("to-bf16", {"compute": "bf16"}),
    "int8": ("quantize-static", {"form": "tensorrt"}),
    "int8 + fp16": ("quantize-static", {"form": "tensorrt", "rest": "fp16"}),
    "fp8": ("quantize-fp8", {}),
    "fp8 + fp16": ("quantize-fp8", {"rest": "fp16"}),
}


def in_precision(network: Exported, precision: str, out: Path) -> ModelHandle:
    """The network's ONNX model in a precision."""
    if (chosen := PASS[precision]) is None:
        return network.model
    name, given = chosen
    out.mkdir(parents=True)
    context = PassContext(out=out, samples={"calibration": network.data})
    made: ModelHandle = passes.registry.get(name)(network.model, PASSES[name].params(**given), context)
    return made


def build(model: ModelHandle, out: Path, **params: Any) -> Engine:
    """Its engine by TensorRT for RTX."""
    out.mkdir(parents=True)
    return runtimes.registry.alone(RTX).build(model, RUNTIMES[RTX].params(**params), out)
