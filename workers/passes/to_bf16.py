"""The pass `to-bf16`: weights as bfloat16, widened where they are read, or arithmetic in bfloat16 as well."""

import difflib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.catalog.pass_params.precision import ToBf16Params
from app.catalog.passes import PASSES
from app.errors import InvalidParams
from workers.context import PassContext
from workers.float_types import BF16
from workers.half_precision import HalfPrecision
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, save_onnx, signature_of
from workers.onnx_prepare import prepare, set_nodes, sort_nodes
from workers.onnx_proof import prove, prove_written, restore_shapes
from workers.passes import implements

SPEC = PASSES["to-bf16"]
LEAST_OPSET = 13  # Cast knows bfloat16 from there on
COMPUTING_OPSET = 22  # Conv, pooling and recurrent layers do


@implements(SPEC.name)
def apply(model: ModelHandle, params: ToBf16Params, ctx: PassContext) -> ModelHandle:
    """Store weights as bfloat16, those inside control flow included, and compute in it where that is asked for.

    Facts of computing: `half` and `kept` ({operator: nodes} in bf16, and in fp32), `casts`, `clamped_weights`, `raised_weights`.
    Facts of storing: `weights` and `kept` (numbers in bfloat16, and in fp32), `clamped_weights` (values beyond its range, which is
    fp32's but for the last steps), `largest_error` (of a weight, relative).

    Raises:
        InvalidParams: an excluded weight is not in the model.
        InvalidModel: it cannot be brought to the opset that knows bfloat16.
    """
    if params.compute == "bf16":
        return _computing(model, params, ctx)
    original = model.load_onnx()
    proto = prepare(model.load_onnx(), SPEC.name, least_opset=LEAST_OPSET)
    _check_weights(proto, params.excluded_weights)
    ctx.facts.update(weights=0, kept=0, clamped_weights=0, largest_error=0.0)
    for graph in graphs(proto.graph):
        _convert(graph, params, ctx)
    if not ctx.facts["weights"]:
        ctx.warn(
            f"no weight became bfloat16: the model has none in fp32 of {params.minimum_weights} elements or more"
        )
    restore_shapes(proto, original.graph)
    handle = save_onnx(proto, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    return handle


def _computing(model: ModelHandle, params: ToBf16Params, ctx: PassContext) -> ModelHandle:
    original = model.load_onnx()
    proto = prepare(model.load_onnx(), SPEC.name, least_opset=COMPUTING_OPSET)
    conversion = HalfPrecision(proto, True, frozenset(params.blocked_operators), frozenset(), BF16)
    conversion.apply()
    restore_shapes(proto, original.graph)
    sort_nodes(proto.graph)
    ctx.facts.update(conversion.facts())
    handle = save_onnx(proto, ctx.out)
    prove_written(signature_of(original), handle, SPEC.name)
    return handle


def _convert(graph: onnx.GraphProto, params: ToBf16Params, ctx: PassContext) -> None:
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        count = int(np.prod(tensor.dims))
        if count < params.minimum_weights or tensor.name in params.excluded_weights:
            ctx.facts["kept"] += count
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(BF16.narrowed_tensor(tensor, f"{name}__bf16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=f"{name}__cast", to=TensorProto.FLOAT)
        )
        ctx.facts["weights"] += count
        ctx.facts["clamped_weights"] += BF16.beyond(values)[0]
        ctx.facts["largest_error"] = max(
            ctx.facts["largest_error"], _error(values, numpy_helper.to_array(tensor))
        )
    if casts:
        set_nodes(graph, [*casts, *graph.node])


def _error(values: np.ndarray, narrow: np.ndarray) -> float:
    """The largest relative error of what is finite and no smaller than a normal number."""
    counts = np.isfinite(values) & (np.abs(values) >= np.finfo(np.float32).tiny)
    if not counts.any():
        return 0.0
    kept = values[counts].astype(np.float64)
    return float(np.max(np.abs(narrow[counts].astype(np.float64) - kept) / np.abs(kept)))


def _check_weights(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    known = sorted({tensor.name for graph in graphs(model.graph) for tensor in graph.initializer})
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise InvalidParams(
                f"the model has no weight called {name!r} at this step",
                param="excluded_weights",
                hint=f"close names: {', '.join(close)}" if close else f"it has {', '.join(known[:20])}",
            )
