"""The pass `simplify`: fewer nodes, same numbers."""

import onnx
import onnxslim

from app.catalog.pass_params.graph import SimplifyParams
from app.catalog.passes import PASSES
from app.errors import InvalidModel
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, opset_of, save_onnx, signature_of
from workers.onnx_prepare import sort_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.passes import implements

SPEC = PASSES["simplify"]
LEAST_IR_VERSION = 4  # from which on weights need not be inputs too
LEAST_INFERRED_OPSET = 7  # onnxslim's shape inference gives nothing back for older models


@implements(SPEC.name)
def apply(model: ModelHandle, params: SimplifyParams, ctx: PassContext) -> ModelHandle:
    """Simplify with onnxslim. Facts: `nodes_before`, `nodes_after`.

    Raises:
        InvalidModel: onnxslim cannot read the graph, or leaves one that does not load.
    """
    proto = model.load_onnx()
    signature = signature_of(proto)
    original = model.load_onnx(weights=False).graph
    before = _count(proto)
    kept = {"ir_version": proto.ir_version, "metadata": list(proto.metadata_props)}
    try:
        slim = onnxslim.slim(
            proto,
            no_shape_infer=not params.shape_inference or opset_of(proto) < LEAST_INFERRED_OPSET,
            skip_optimizations=None if params.fuse else ["graph_fusion"],
            size_threshold=params.fold_limit_bytes,
        )
    except Exception as error:
        raise InvalidModel(
            f"onnxslim cannot work on this graph: {type(error).__name__}: {str(error)[:500]}",
            stage=SPEC.name,
            hint="leave simplify out of the recipe, or set shape_inference to false",
        ) from error
    restore_shapes(slim, original)
    sort_nodes(slim.graph)
    slim.ir_version = max(slim.ir_version, kept["ir_version"], LEAST_IR_VERSION)
    del slim.metadata_props[:]
    slim.metadata_props.extend(kept["metadata"])
    handle = save_onnx(slim, ctx.out)
    prove(signature, handle, SPEC.name)
    ctx.facts.update(nodes_before=before, nodes_after=_count(slim))
    return handle


def _count(model: onnx.ModelProto) -> int:
    return sum(len(graph.node) for graph in graphs(model.graph))
