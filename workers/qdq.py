"""Quantization in the form that TensorRT fuses: symmetric, Q/DQ on the inputs of products, weights with a scale a channel.

An activation gets QuantizeLinear and DequantizeLinear before the convolutions and products that read it, never after them,
so that a Relu or an addition behind one fuses with it. Of an addition that closes a residual, the side that is not the
convolution's is quantized too: the addition then ends in 8 bits as part of the convolution. Biases stay in floating point.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html (Q/DQ placement).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from workers.onnx_prepare import set_nodes

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RESIDUAL = "Add"
OPERATORS = (*PRODUCTS, RESIDUAL)
MATRIX = 2  # dimensions of a weight that has channels of its own


@dataclass(frozen=True)
class QuantizedType:
    """A type by its number in ONNX and its numpy dtype, with the largest magnitude that it holds."""

    onnx: int
    numpy: np.dtype
    largest: float

    def quantized(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Numbers divided by their scale, in this type, to nearest; what lies beyond is clipped."""
        scaled = np.clip(values / scale, -self.largest, self.largest)
        whole: np.ndarray = (np.rint(scaled) if self.numpy.kind == "i" else scaled).astype(self.numpy)
        return whole


INT8 = QuantizedType(TensorProto.INT8, np.dtype(np.int8), 127.0)
FP8 = QuantizedType(TensorProto.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn), 448.0)


class Placement:
    """Where Q/DQ go in the main graph of a prepared model; graphs inside control flow are left."""

    def __init__(self, model: onnx.ModelProto, operators: Iterable[str], excluded_nodes: Iterable[str]):
        graph = model.graph
        self._weights = {
            tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT
        }
        self._floats = _floats(graph)
        wanted, excluded = set(operators), set(excluded_nodes)
        self.products = [
            node
            for node in graph.node
            if node.op_type in PRODUCTS
            and node.op_type in wanted
            and node.name not in excluded
            and self._takes(node)
        ]
        made = {node.output[0]: node for node in self.products}
        self.residuals: dict[str, str] = {}  # addition -> the side that is quantized
        for node in graph.node:
            if node.op_type == RESIDUAL and RESIDUAL in wanted and node.name not in excluded:
                side = self._side(node, made)
                if side is not None:
                    self.residuals[node.name] = side

    @property
    def activations(self) -> list[str]:
        """The tensors that calibration must give a range for, sorted."""
        return sorted({*(node.input[0] for node in self.products), *self.residuals.values()})

    def _takes(self, node: NodeProto) -> bool:
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return node.input[1] in self._weights and node.input[0] in self._floats and not turned

    def _side(self, node: NodeProto, made: Mapping[str, NodeProto]) -> str | None:
        """Of an addition to a convolution's result, the other side; of two convolutions' results, the second."""
        first, second = (str(name) for name in node.input)
        if any(name in self._weights or name not in self._floats for name in (first, second)):
            return None
        if first in made and made[first].op_type in ("Conv", "ConvTranspose"):
            return second
        return first if second in made and made[second].op_type in ("Conv", "ConvTranspose") else None


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    kind: QuantizedType,
    *,
    per_channel: bool = True,
    half_scales: bool = False,
) -> None:
    """Insert Q/DQ at their places, in the model itself, and store weights quantized.

    `ranges` are {activation: (low, high)}; scales are symmetric. `half_scales`: scales will be stored in fp16, so that what is
    quantized by them must know them as rounded.
    """
    _Insertion(model, ranges, kind, per_channel, half_scales).apply(placement)


class _Insertion:
    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Mapping[str, tuple[float, float]],
        kind: QuantizedType,
        per_channel: bool,
        half_scales: bool,
    ):
        self._graph = model.graph
        self._ranges = ranges
        self._kind = kind
        self._per_channel = per_channel
        self._scale_dtype = np.float16 if half_scales else np.float32
        self._added: dict[str, list[NodeProto]] = {}  # by the dequantized value
        self._arrays = {tensor.name: tensor for tensor in self._graph.initializer}
        self._stored: list[TensorProto] = []

    def apply(self, placement: Placement) -> None:
        for node in placement.products:
            node.input[1] = self._weight(node)
            node.input[0] = self._activation(node.input[0])
        for node in self._graph.node:
            if (side := placement.residuals.get(node.name)) is not None:
                for index, name in enumerate(node.input):
                    if name == side:
                        node.input[index] = self._activation(name)
                        break
        read = {name for node in self._graph.node for name in node.input}
        read |= {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in (*kept, *self._stored)]
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)
        first = [one for nodes in self._added.values() for one in nodes]
        set_nodes(self._graph, [*first, *self._graph.node])  # the caller sorts

    def _activation(self, name: str) -> str:
        given = f"{name}__dequantized"
        if given not in self._added:
            low, high = self._ranges[name]
            scale = self._scale(np.array(max(abs(low), abs(high))))
            stored = self._constants(name, scale)
            self._added[given] = [
                helper.make_node(
                    "QuantizeLinear", [name, *stored], [f"{name}__quantized"], name=f"{name}__q"
                ),
                helper.make_node(
                    "DequantizeLinear", [f"{name}__quantized", *stored], [given], name=f"{name}__dq"
                ),
            ]
        return given

    def _weight(self, node: NodeProto) -> str:
        name, axis = node.input[1], self._axis(node)
        given = f"{name}__dequantized" if axis is None else f"{name}__dequantized{axis}"
        if given in self._added:
            return given
        values = numpy_helper.to_array(self._arrays[name])
        others = None if axis is None else tuple(one for one in range(values.ndim) if one != axis)
        largest = np.abs(values).max(axis=others) if values.size else np.zeros(1)
        scale = self._scale(np.asarray(largest))
        laid = (
            scale if axis is None else scale.reshape([-1 if one == axis else 1 for one in range(values.ndim)])
        )
        whole = self._kind.quantized(values, laid.astype(np.float32))
        self._stored.append(numpy_helper.from_array(whole, f"{given}__q"))
        stored = self._constants(given, scale)
        restored = helper.make_node(
            "DequantizeLinear", [f"{given}__q", *stored], [given], name=f"{given}__dq"
        )
        if axis is not None:
            restored.attribute.append(helper.make_attribute("axis", axis))
        self._added[given] = [restored]
        return given

    def _axis(self, node: NodeProto) -> int | None:
        """The axis of a weight's output channels; None where one scale serves the whole weight."""
        rank = len(self._arrays[node.input[1]].dims)
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if not self._per_channel:
            return None
        if node.op_type == "Conv":
            return 0
        if node.op_type == "ConvTranspose":
            return 1 if attributes.get("group", 1) == 1 else None
        if node.op_type == "Gemm":
            return 0 if attributes.get("transB") else 1
        return 1 if rank == MATRIX else None

    def _scale(self, largest: np.ndarray) -> np.ndarray:
        scale = (largest / self._kind.largest).astype(self._scale_dtype).astype(np.float32)
        return np.where(scale > np.float32(0), scale, np.float32(1))

    def _constants(self, name: str, scale: np.ndarray) -> tuple[str, str]:
        """Store a scale and its zero points."""
        names = f"{name}__scale", f"{name}__zero"
        zero = np.zeros(scale.shape, dtype=self._kind.numpy)
        self._stored.append(numpy_helper.from_array(scale, names[0]))
        self._stored.append(numpy_helper.from_array(zero, names[1]))
        return names


def _floats(graph: onnx.GraphProto) -> set[str]:
    return {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
