"""What the ONNX model says of an engine that is built from it: strongly typed, so precision is as it stands there."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx
from onnx import TensorProto

from workers.model_handle import ModelHandle
from workers.onnx_files import graphs
from workers.onnx_prepare import infer_types
from workers.runtimes.onnx_facts import CONVOLUTIONS, FLOAT_COMPUTE, NAMED

_FLOATS: dict[int, str] = {
    TensorProto.DOUBLE: "fp64", TensorProto.FLOAT: "fp32", TensorProto.BFLOAT16: "bf16", TensorProto.FLOAT16: "fp16",
}  # fmt: skip
_QUANTIZED: dict[int, str] = {
    TensorProto.INT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "weights-4bit",
}
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
PAIR = 2  # inputs of a product


def network_facts(model: ModelHandle) -> dict[str, Any]:
    """The keys of `onnx_facts.graph_facts`, of the model before the library's fusions, and `explained` sentences.

    A product counts as int8 or fp8 where both its inputs come from DequantizeLinear: that is the form that is fused.
    """
    proto = infer_types(model.load_onnx(weights=False))
    counts = _Counts()
    for graph in graphs(proto.graph):
        counts.add(graph)
    return counts.facts()


class _Counts:
    def __init__(self) -> None:
        self.operators: Counter[str] = Counter()
        self.precision: Counter[str] = Counter()
        self.compute: Counter[str] = Counter()
        self.convolutions: Counter[str] = Counter()
        self.unfused: list[str] = []
        self.weights: Counter[int] = Counter()
        self.doubles = 0
        self._kinds: dict[str, int] = {}
        self._dequantized: dict[str, str] = {}

    def add(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.value_info, *graph.input, *graph.output):
            self._kinds[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            self._kinds[tensor.name] = tensor.data_type
            self.weights[tensor.data_type] += _elements(tensor.dims)
        self.doubles += sum(
            value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in (*graph.input, *graph.output)
        )
        for node in graph.node:
            self._add(node)

    def _add(self, node: onnx.NodeProto) -> None:
        if node.op_type == "DequantizeLinear":
            kind = self._kinds.get(node.input[0], 0)
            self._dequantized[node.output[0]] = _QUANTIZED.get(kind, "int8")
        where = self._precision(node)
        self.operators[node.op_type] += 1
        self.precision[where] += 1
        if node.op_type in FLOAT_COMPUTE:
            self.compute[where] += 1
            if node.op_type in CONVOLUTIONS:
                self.convolutions[where] += 1
            read = [name in self._dequantized for name in node.input[:PAIR]]
            if any(read) and not all(read):
                self.unfused.append(node.name)

    def _precision(self, node: onnx.NodeProto) -> str:
        if node.op_type in _CONVERSIONS:
            return "conversion"
        pair = [self._dequantized.get(name) for name in node.input[:PAIR]]
        if node.op_type in FLOAT_COMPUTE and len(pair) == PAIR and all(pair):
            return "fp8" if "fp8" in pair else str(pair[0])
        kinds = {self._kinds.get(name) for name in (*node.input, *node.output)}
        return next((name for kind, name in _FLOATS.items() if kind in kinds), "other")

    def facts(self) -> dict[str, Any]:
        return {
            "nodes": sum(self.operators.values()),
            "operators": dict(self.operators),
            "precision": dict(self.precision),
            "compute": dict(self.compute),
            "convolutions": dict(self.convolutions),
            "conversions": {kind: self.operators[kind] for kind in _CONVERSIONS if self.operators[kind]},
            "unfused": {"count": len(self.unfused), "nodes": self.unfused[:NAMED]},
            "weights": sum(self.weights.values()),
            "half_weights": self.weights[TensorProto.FLOAT16],
            "model_half_weights": self.weights[TensorProto.FLOAT16],
            "hardware_layout": False,
            "explained": self._sentences(),
        }

    def _sentences(self) -> list[str]:
        texts = []
        if self.unfused:
            texts.append(
                f"{len(self.unfused)} products have only one quantized input, and compute in floating point: TensorRT "
                "needs Q/DQ on both."
            )
        if self.doubles:
            texts.append(
                f"{self.doubles} inputs or outputs are fp64 in the model, and fp32 in the engine: the library has no fp64."
            )
        return texts


def _elements(dims: Iterable[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count
