"""The pass `to-fp16`: weights and arithmetic in half precision."""

import onnx

from app.catalog.pass_params.precision import ToFp16Params
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.half_precision import HalfPrecision
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_nodes import check_names
from workers.onnx_prepare import prepare, sort_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.passes import implements

SPEC = PASSES["to-fp16"]


@implements(SPEC.name)
def apply(model: ModelHandle, params: ToFp16Params, ctx: PassContext) -> ModelHandle:
    """Convert, graphs inside control flow included.

    Facts: `half` and `kept` ({operator: nodes} in half precision, and in fp32), `casts`, `clamped_weights` (values
    beyond 65504), `raised_weights` (values below the smallest half, set to it).

    Raises:
        InvalidParams: a blocked node is not in the model.
    """
    original = model.load_onnx()
    check_names(original, params.blocked_nodes, "blocked_nodes")
    proto = prepare(model.load_onnx(), SPEC.name, least_opset=11)
    conversion = HalfPrecision(
        proto, params.keep_io_types, frozenset(params.blocked_operators), frozenset(params.blocked_nodes)
    )
    conversion.apply()
    restore_shapes(proto, original.graph)
    sort_nodes(proto.graph)
    ctx.facts.update(conversion.facts())
    if conversion.clamped:
        ctx.warn(
            f"{conversion.clamped} weights lie beyond 65504, the largest number of half precision, and were clamped"
        )
    handle = save_onnx(proto, ctx.out)
    changed = frozenset() if params.keep_io_types else frozenset({onnx.TensorProto.FLOAT})
    prove(signature_of(original), handle, SPEC.name, may_change=changed)
    return handle
