"""The pass `fuse-transformer`: a transformer's parts as single operators of ONNX Runtime."""

import contextlib
import io
from collections import Counter
from typing import Any

import onnx

from app.catalog.pass_params.graph import FuseTransformerParams
from app.catalog.passes import PASSES
from app.errors import InvalidModel
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_attention import fuse_attention
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_nodes import nodes_of, quieted
from workers.onnx_prepare import declare_domain, drop_unread_weights, prepare, sort_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.onnx_trial import prove_same
from workers.passes import implements

SPEC = PASSES["fuse-transformer"]
DOMAIN = "com.microsoft"
LEAST_OPSET = 13
FUSED = (
    "LayerNormalization",
    "SimplifiedLayerNormalization",
)  # what the optimizer makes in the standard's domain


@implements(SPEC.name)
def apply(model: ModelHandle, params: FuseTransformerParams, ctx: PassContext) -> ModelHandle:
    """Fuse with ONNX Runtime's optimizer, then the attention that it does not know.

    Facts: `fused` ({operator: how many more there are}), `nodes_before`, `nodes_after`.

    Raises:
        InvalidModel: the optimizer cannot work on the graph, or the result computes something else.
    """
    original = model.load_onnx()
    before = prepare(model.load_onnx(), SPEC.name, least_opset=LEAST_OPSET)
    counted = _kinds(before)
    after = _optimized(before, params)
    if params.attention:
        fuse_attention(after)
    drop_unread_weights(after.graph)
    restore_shapes(after, original.graph)
    sort_nodes(after.graph)
    declare_domain(after, DOMAIN)
    fused = _kinds(after) - counted
    ctx.facts.update(
        fused=dict(sorted(fused.items())),
        nodes_before=sum(1 for _ in nodes_of(original)),
        nodes_after=sum(1 for _ in nodes_of(after)),
    )
    if not fused:
        ctx.warn(
            "nothing was fused: the model has no attention, layer norm or GELU in a form that is known, another "
            "model_type may fit it, or `simplify` should come first"
        )
    handle = save_onnx(after, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    prove_same(model, handle, ctx, SPEC.name)
    return handle


def _optimized(model: onnx.ModelProto, params: FuseTransformerParams) -> onnx.ModelProto:
    maker = model.producer_name, model.producer_version
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    options = _chosen(FusionOptions(params.model_type), params)
    with quieted(), contextlib.redirect_stdout(io.StringIO()):
        try:
            result = optimize_by_fusion(
                model, params.model_type, params.heads, params.hidden_size, options
            ).model
        except Exception as error:
            raise InvalidModel(
                f"ONNX Runtime's optimizer cannot work on this graph: {type(error).__name__}: {str(error)[:300]}",
                stage=SPEC.name,
                hint="try another model_type, or leave fuse-transformer out of the recipe",
            ) from error
    result.producer_name, result.producer_version = maker
    fused: onnx.ModelProto = result
    return fused


def _chosen(options: Any, params: FuseTransformerParams) -> Any:
    options.enable_attention = params.attention
    options.enable_layer_norm = params.layer_norm
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = params.skip_layer_norm
    options.enable_gelu = options.enable_bias_gelu = params.gelu
    options.enable_embed_layer_norm = params.embeddings
    if params.model_type != "vit":
        options.use_raw_attention_mask(params.padding == "anywhere")
    return options


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes there are of each operator that a fusion makes."""
    return Counter(node.op_type for node in nodes_of(model) if node.domain == DOMAIN or node.op_type in FUSED)
