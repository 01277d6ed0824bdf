"""The pass `quantize-weights`: constant MatMul and Gemm weights in blocks of 4 or 8 bits (MatMulNBits)."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

from app.catalog.pass_params.quantization import QuantizeWeightsParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, save_onnx, signature_of
from workers.onnx_nodes import check_names, outcome
from workers.onnx_prepare import declare_domain, drop_unread_weights, prepare, set_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.passes import implements

SPEC = PASSES["quantize-weights"]
DOMAIN = "com.microsoft"
COUNTED = ("MatMul", "Gemm")


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeWeightsParams, ctx: PassContext) -> ModelHandle:
    """Replace MatMul and Gemm nodes with constant two-dimensional weights by MatMulNBits, inside control flow too.

    Facts: `quantized` and `left_out` (see `onnx_nodes.outcome`).

    Raises:
        InvalidParams: an excluded node is not in the model.
    """
    original = model.load_onnx()
    check_names(original, params.excluded_nodes, "excluded_nodes")
    before = prepare(model.load_onnx(), SPEC.name, least_opset=11)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    quantizer = _Quantizer(params)
    for graph in graphs(after.graph):
        quantizer.convert(graph)
    declare_domain(after, DOMAIN)
    drop_unread_weights(after.graph)
    restore_shapes(after, original.graph)
    ctx.facts.update(
        outcome(
            before,
            COUNTED,
            is_left=lambda node: node.name not in quantizer.taken,
            reason=lambda node: quantizer.reasons[node.name],
        )
    )
    if not quantizer.taken:
        ctx.warn("nothing was quantized: the model has no MatMul or Gemm with constant weights of that size")
    handle = save_onnx(after, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    return handle


class _Quantizer:
    """Goes through graphs, outer ones first; a weight that several nodes read is quantized once."""

    def __init__(self, params: QuantizeWeightsParams):
        self._params = params
        self._weights: dict[str, onnx.TensorProto] = {}
        self._owners: dict[str, onnx.GraphProto] = {}
        self._done: dict[tuple[str, bool], list[str]] = {}
        self.taken: set[str] = set()
        self.reasons: dict[str, str] = {}

    def convert(self, graph: onnx.GraphProto) -> None:
        """Replace what can be in one graph."""
        for tensor in graph.initializer:
            self._weights[tensor.name] = tensor
            self._owners[tensor.name] = graph
            for transposed in (False, True):  # a sibling branch may call another weight the same
                self._done.pop((tensor.name, transposed), None)
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            reason = self._why_not(node) if node.op_type in COUNTED else "no matrix product"
            if reason:
                self.reasons[node.name] = reason
                nodes.append(node)
            else:
                self.taken.add(node.name)
                nodes += self._replacement(node)
        set_nodes(graph, nodes)

    def _why_not(self, node: onnx.NodeProto) -> str | None:
        weight = self._weights.get(node.input[1])
        if node.name in self._params.excluded_nodes:
            return "excluded by name"
        if weight is None:
            return "its weights are computed, not constant"
        if len(weight.dims) != 2:
            return "its weights are not a matrix"
        if weight.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            return "its weights are not fp32 or fp16"
        if int(np.prod(weight.dims)) < self._params.minimum_weights:
            return f"it has fewer than {self._params.minimum_weights} weights"
        if node.op_type == "Gemm":
            given = _attributes(node)
            if (given["alpha"], given["beta"], given["transA"]) != (1.0, 1.0, 0):
                return "it scales or transposes its input (Gemm with alpha, beta or transA)"
        return None

    def _replacement(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """MatMulNBits, and an Add for the bias of a Gemm."""
        transposed = node.op_type == "Gemm" and bool(_attributes(node)["transB"])
        dims = self._weights[node.input[1]].dims
        rows, columns = (dims[1], dims[0]) if transposed else (dims[0], dims[1])
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        product = f"{node.output[0]}__product" if bias else node.output[0]
        params = self._params
        attributes = {"K": rows, "N": columns, "bits": params.bits, "block_size": params.block_size}
        if params.accuracy_level:
            attributes["accuracy_level"] = params.accuracy_level
        yield helper.make_node(
            "MatMulNBits",
            [node.input[0], *self._blocks(node.input[1], transposed)],
            [product],
            name=node.name,
            domain=DOMAIN,
            **attributes,
        )
        if bias:
            yield helper.make_node("Add", [product, bias], [node.output[0]], name=f"{node.name}__bias")

    def _blocks(self, name: str, transposed: bool) -> list[str]:
        """The names of a weight's quantized blocks, scales and zero points."""
        if (name, transposed) not in self._done:
            matrix = numpy_helper.to_array(self._weights[name])
            parts = quantize_blocks(
                np.ascontiguousarray(matrix.T if transposed else matrix),
                self._params.bits,
                self._params.block_size,
                self._params.symmetric,
            )
            base = f"{name}__transposed" if transposed else name
            tensors = [numpy_helper.from_array(array, f"{base}__{part}") for part, array in parts.items()]
            self._owners[name].initializer.extend(tensors)
            self._done[name, transposed] = [tensor.name for tensor in tensors]
        return self._done[name, transposed]


def quantize_blocks(matrix: np.ndarray, bits: int, block_size: int, symmetric: bool) -> dict[str, np.ndarray]:
    """A (K, N) matrix as MatMulNBits takes it, in blocks along K: `blocks`, `scales`, and `zeros` unless symmetric.

    Layout: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
    """
    rows, columns = matrix.shape
    count = -(-rows // block_size)
    padded = np.pad(matrix, ((0, count * block_size - rows), (0, 0)))
    per_byte = 8 // bits
    blocks = np.zeros((columns, count, block_size // per_byte), dtype=np.uint8)
    zeros = np.zeros((columns, -(-count // per_byte)), dtype=np.uint8)
    scales = np.zeros((columns, count), dtype=matrix.dtype)
    quantize = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    quantize(blocks, padded, scales, zeros, block_size, columns, rows, symmetric)
    parts = {"blocks": blocks, "scales": scales}
    return parts if symmetric else {**parts, "zeros": zeros}


def _attributes(node: onnx.NodeProto) -> dict[str, float]:
    """A Gemm's attributes, absent ones filled in."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **given}
