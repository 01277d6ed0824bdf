"""The pass `quantize-dynamic`: 8-bit weights, activation ranges taken on every call."""

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from app.catalog.pass_params.quantization import QuantizeDynamicParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_nodes import check_names, nodes_of, outcome, quieted
from workers.onnx_prepare import declare_domain, prepare, sort_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.passes import implements

SPEC = PASSES["quantize-dynamic"]
WEIGHT_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
COUNTED = ("MatMul", "Gemm", "Attention", "LSTM", "Conv")


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeDynamicParams, ctx: PassContext) -> ModelHandle:
    """Quantize with ONNX Runtime's dynamic quantizer, graphs inside `If` and `Loop` included.

    Facts: `quantized` and `left_out` (see `onnx_nodes.outcome`).

    Raises:
        InvalidParams: an excluded node is not in the model.
    """
    original = model.load_onnx()
    check_names(original, params.excluded_nodes, "excluded_nodes")
    before = prepare(model.load_onnx(), SPEC.name, least_opset=11)
    after = _quantized(before, params)
    restore_shapes(after, original.graph)
    sort_nodes(after.graph)
    declare_domain(after, "com.microsoft")

    left = {node.name for node in nodes_of(after) if node.op_type in COUNTED}
    ctx.facts.update(
        outcome(
            before,
            COUNTED,
            is_left=lambda node: node.name in left or _as_matmul(node.name) in left,
            reason=lambda node: _reason(node, params),
        )
    )
    if not ctx.facts["quantized"]:
        ctx.warn("nothing was quantized: the model has no constant weights of the chosen operator types")
    handle = save_onnx(after, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    return handle


def _quantized(before: onnx.ModelProto, params: QuantizeDynamicParams) -> onnx.ModelProto:
    kept = [
        node.name for node in nodes_of(before) if node.op_type == "Gemm" and "Gemm" not in params.operators
    ]
    kept += params.excluded_nodes
    with tempfile.TemporaryDirectory() as folder, quieted():
        target = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            before,
            target,
            op_types_to_quantize=_types(params),
            per_channel=params.per_channel,
            reduce_range=params.reduce_range,
            weight_type=WEIGHT_TYPES[params.weight_type],
            nodes_to_exclude=[*kept, *map(_as_matmul, kept)],
            extra_options={"EnableSubgraph": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return onnx.load(str(target))


def _types(params: QuantizeDynamicParams) -> list[str]:
    """The quantizer's operator types: it turns every Gemm into MatMul and Add first."""
    return sorted({"MatMul" if kind == "Gemm" else kind for kind in params.operators})


def _as_matmul(name: str) -> str:
    """What the quantizer calls the MatMul that it made of a Gemm."""
    return f"{name}_MatMul"


def _reason(node: onnx.NodeProto, params: QuantizeDynamicParams) -> str:
    if node.name in params.excluded_nodes:
        return "excluded by name"
    if node.op_type == "Conv" and "Conv" not in params.operators:
        return "dynamic 8-bit convolutions are slower than fp32 on CPUs, so they are left out by default"
    if node.op_type not in params.operators:
        return "its operator type was not chosen"
    return "it has no constant 8-bit weights: both its inputs are computed, or its form is not supported"
