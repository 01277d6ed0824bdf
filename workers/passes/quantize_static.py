"""The pass `quantize-static`: 8-bit weights and activations, with ranges from calibration data."""

from collections.abc import Collection

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from app.catalog.pass_params.quantization import FUSED_OPERATORS, QuantizeStaticParams
from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe
from workers import qdq
from workers.attention_scores import before_softmax
from workers.bias_correction import correct_biases, give_biases
from workers.calibration import Plan, Ranges, collect_ranges
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, save_onnx, signature_of
from workers.onnx_nodes import check_names, nodes_of, outcome, quieted
from workers.onnx_prepare import prepare, sort_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.passes import implements
from workers.quantize_for_tensorrt import Asked, quantize

SPEC = PASSES["quantize-static"]
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OTHER_FLOATS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
LEAST_OPSET = 13  # per-channel QuantizeLinear and DequantizeLinear


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeStaticParams, ctx: PassContext) -> ModelHandle:
    """Calibrate, then insert QuantizeLinear and DequantizeLinear (QDQ form). Control-flow bodies stay in fp32, and what
    `left_alone` names stays as it is.

    Facts: `quantized` and `left_out` (see `onnx_nodes.outcome`), `calibration` ({samples, method, tensors, synthetic}),
    `bias_correction` (see `bias_correction.correct_biases`) where it was asked for.

    Raises:
        InvalidParams: an excluded node is not in the model.
        IncompatibleRecipe: the model has nothing that these parameters quantize.
        InvalidDataset: calibration gives NaN or infinity, or has no samples.
    """
    if params.form == "tensorrt":
        return apply_tensorrt_form(model, params, ctx)
    original = model.load_onnx()
    check_names(original, params.excluded_nodes, "excluded_nodes")
    before = prepare(model.load_onnx(), SPEC.name, least_opset=LEAST_OPSET)
    if params.correct_bias:
        give_biases(before, params.excluded_nodes)
    operators = sorted(set(params.operators or FUSED_OPERATORS) - set(params.excluded_operators))
    excluded = {*params.excluded_nodes, *left_alone(before)}
    tensors = float_tensors(before, operators, excluded)
    if not tensors:
        raise IncompatibleRecipe(
            f"the model has no operator to quantize: none of {', '.join(operators)} works on fp32 values",
            stage=SPEC.name,
            hint="leave quantize-static out of the recipe",
        )
    samples = ctx.samples["calibration"]
    plan = Plan(
        tensors, params.method, params.histogram_bins, params.percentile, params.samples,
        unsigned=params.activation_type == "uint8" and not params.symmetric_activations,
    )  # fmt: skip
    ranges = collect_ranges(before, samples, plan, ctx.report)
    after = quantized(before, ranges, operators, sorted(excluded), params)
    restore_shapes(after, original.graph)
    sort_nodes(after.graph)
    if params.correct_bias:
        ctx.facts["bias_correction"] = correct_biases(
            before,
            after,
            samples,
            min(params.correction_samples, params.samples or samples.count),
            ctx.report,
        )

    taken = quantized_nodes(after)
    ctx.facts.update(
        outcome(
            before,
            COUNTED,
            is_left=lambda node: node.name not in taken,
            reason=lambda node: reason(node, before, operators, params),
        )
    )
    ctx.facts["calibration"] = {
        "samples": min(samples.count, params.samples or samples.count),
        "method": params.method,
        "tensors": len(ranges),
        "synthetic": samples.synthetic,
    }
    handle = save_onnx(after, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    return handle


def apply_tensorrt_form(model: ModelHandle, params: QuantizeStaticParams, ctx: PassContext) -> ModelHandle:
    """The same in the form that TensorRT fuses. Raises as `quantize_for_tensorrt.quantize`."""
    wanted = set(params.operators or qdq.OPERATORS) - set(params.excluded_operators)
    asked = Asked(
        kind=qdq.INT8, operators=frozenset(wanted & set(qdq.OPERATORS)), excluded_nodes=params.excluded_nodes,
        method=params.method, bins=params.histogram_bins, percentile=params.percentile, samples=params.samples,
        per_channel=params.per_channel, rest=params.rest,
    )  # fmt: skip
    return quantize(model, asked, ctx, SPEC.name)


def float_tensors(model: onnx.ModelProto, operators: list[str], excluded: Collection[str]) -> list[str]:
    """The fp32 activations that nodes of these types read or write in the main graph, but for excluded nodes; sorted."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    wanted = {
        name
        for node in graph.node
        if node.op_type in operators and node.name not in excluded
        for name in (*node.input, *node.output)
    }
    return sorted((wanted & floats) - constants)


def left_alone(model: onnx.ModelProto) -> set[str]:
    """Names of nodes of the main graph that are not quantized whatever the parameters say: see `attention_scores.before_softmax`,
    and those with numbers in fp16, bf16 or fp64, for which ONNX Runtime's quantizer would want ranges too."""
    graph = model.graph
    others = {tensor.name for tensor in graph.initializer if tensor.data_type in OTHER_FLOATS}
    others |= {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type in OTHER_FLOATS
    }
    found = {node.name for node in graph.node if not others.isdisjoint((*node.input, *node.output))}
    return found | {node.name for node in before_softmax(graph)}


def quantized_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of nodes whose first two inputs both come from DequantizeLinear: what runtimes compute in 8 bits."""
    dequantized = {
        name for node in nodes_of(model) if node.op_type == "DequantizeLinear" for name in node.output
    }
    return {node.name for node in nodes_of(model) if node.input and set(node.input[:2]) <= dequantized}


def quantized(
    before: onnx.ModelProto,
    ranges: Ranges,
    operators: list[str],
    excluded: list[str],
    params: QuantizeStaticParams,
) -> onnx.ModelProto:
    """The model in 8 bits by these ranges, which `float_tensors` must have; the one given stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    add_infer_metadata(copy)
    data = {
        name: TensorData(lowest=np.array(low, dtype=np.float32), highest=np.array(high, dtype=np.float32))
        for name, (low, high) in ranges.items()
    }
    with quieted():
        quantizer = QDQQuantizer(
            copy,
            params.per_channel,
            params.reduce_range,
            TYPES[params.weight_type],
            TYPES[params.activation_type],
            TensorsData(CalibrationMethod.MinMax, data),
            [],
            excluded,
            operators,
            {
                "ActivationSymmetric": params.symmetric_activations,
                "WeightSymmetric": params.symmetric_weights,
                # ONNX Runtime's quantizer removes a Relu that the range makes needless, but does not look for
                # readers inside control flow.
                "QDQKeepRemovableActivations": _has_control_flow(before),
            },
        )
        quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _has_control_flow(model: onnx.ModelProto) -> bool:
    return sum(1 for _ in graphs(model.graph)) > 1


def reason(
    node: onnx.NodeProto, model: onnx.ModelProto, operators: list[str], params: QuantizeStaticParams
) -> str:
    """Why a node is not quantized, in words."""
    if node.name in params.excluded_nodes:
        return "excluded by name"
    if node.op_type in params.excluded_operators:
        return "excluded by operator type"
    if node.op_type not in operators:
        return "its operator type is not quantized by default: it has no 8-bit kernel"
    if node.name not in {outer.name for outer in model.graph.node}:
        return "it is inside control flow (If, Loop or Scan)"
    return "its inputs are not all fp32 values of a known type"
