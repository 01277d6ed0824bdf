"""Calibrate and quantize in the form that TensorRT fuses (`qdq`): what `quantize-static` and `quantize-fp8` share."""

from collections.abc import Collection
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from app.errors import IncompatibleRecipe
from workers import qdq
from workers.calibration import Method, Plan, collect_ranges
from workers.context import PassContext
from workers.half_precision import HalfPrecision
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_nodes import check_names, outcome
from workers.onnx_prepare import infer_types, prepare, sort_nodes
from workers.onnx_proof import prove, restore_shapes

LEAST_OPSET = 13  # per-channel QuantizeLinear and DequantizeLinear
LATER_OPSET = 19  # … of 8-bit floats, and of fp16


@dataclass(frozen=True)
class Asked:
    """What is asked for."""

    kind: qdq.QuantizedType
    operators: frozenset[str]
    excluded_nodes: tuple[str, ...]
    method: Method
    bins: int
    percentile: float
    samples: int | None
    per_channel: bool
    rest: str


def quantize(model: ModelHandle, asked: Asked, ctx: PassContext, stage: str) -> ModelHandle:
    """Insert Q/DQ with scales from the samples `calibration`, and bring the rest to half precision where that is asked for.

    Facts: `quantized` and `left_out` (see `onnx_nodes.outcome`), `residuals` (additions whose other side is quantized),
    `calibration` ({samples, method, tensors, synthetic}), and `rest` (of `HalfPrecision.facts`).

    Raises:
        InvalidParams: an excluded node is not in the model.
        IncompatibleRecipe: the model has nothing to quantize.
        InvalidDataset: calibration gives NaN or infinity, or has no samples.
        InvalidModel: it cannot be brought to the opset that this form needs.
    """
    original = model.load_onnx()
    check_names(original, asked.excluded_nodes, "excluded_nodes")
    later = asked.rest == "fp16" or asked.kind.onnx != TensorProto.INT8
    before = prepare(model.load_onnx(), stage, least_opset=LATER_OPSET if later else LEAST_OPSET)
    placement = qdq.Placement(before, asked.operators, asked.excluded_nodes)
    if not placement.products:
        raise IncompatibleRecipe(
            f"the model has nothing to quantize: no {', '.join(sorted(asked.operators & set(qdq.PRODUCTS)))} with fp32 input and "
            "constant weight",
            stage=stage,
            hint=f"leave {stage} out of the recipe",
        )
    samples = ctx.samples["calibration"]
    plan = Plan(
        placement.activations, asked.method, asked.bins, asked.percentile, asked.samples, unsigned=False
    )
    ranges = collect_ranges(before, samples, plan, ctx.report)
    after = type(before)()
    after.CopyFrom(before)
    qdq.insert(
        after,
        qdq.Placement(after, asked.operators, asked.excluded_nodes),
        ranges,
        asked.kind,
        per_channel=asked.per_channel,
        half_scales=asked.rest == "fp16",
    )
    restore_shapes(after, original.graph)
    sort_nodes(after.graph)
    if asked.rest == "fp16":
        after = with_half_rest(after, original.graph, ctx)
    taken = {node.name for node in placement.products}
    ctx.facts.update(
        outcome(
            before,
            qdq.PRODUCTS,
            is_left=lambda node: node.name not in taken,
            reason=lambda node: reason(node, asked.operators, asked.excluded_nodes),
        )
    )
    ctx.facts["residuals"] = len(placement.residuals)
    ctx.facts["calibration"] = {
        "samples": min(samples.count, asked.samples or samples.count),
        "method": asked.method,
        "tensors": len(ranges),
        "synthetic": samples.synthetic,
    }
    handle = save_onnx(after, ctx.out)
    prove(signature_of(original), handle, stage)
    return handle


def with_half_rest(model: ModelProto, shapes: GraphProto, ctx: PassContext) -> ModelProto:
    """A quantized model whose other layers compute in fp16; inputs and outputs have the shapes that `shapes` tells.

    Facts: `rest`, see `HalfPrecision.facts`.
    """
    model = infer_types(model)
    conversion = HalfPrecision(model, True, frozenset(), frozenset())
    conversion.apply()
    restore_shapes(model, shapes)
    sort_nodes(model.graph)
    ctx.facts["rest"] = conversion.facts()
    return model


def reason(node: NodeProto, operators: Collection[str], excluded_nodes: Collection[str]) -> str:
    """Why a node is not quantized, in words."""
    if node.name in excluded_nodes:
        return "excluded by name"
    if node.op_type not in operators:
        return "its operator type is not quantized"
    return "its weight is no fp32 constant of the main graph, or its input is not fp32"
