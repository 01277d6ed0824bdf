"""The pass `shrink-depth`: residual branches that change the outputs least are dropped."""

from typing import TYPE_CHECKING

from app.catalog.pass_params.shrink_depth import ShrinkDepthParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.surgery.counting import LayerCount
    from workers.surgery.depth import Shrunk

SPEC = PASSES["shrink-depth"]


@implements(SPEC.name)
def apply(model: ModelHandle, params: ShrinkDepthParams, ctx: PassContext) -> ModelHandle:
    """Drop branches, and export the network anew with the signature that it had. What was written is run once more.

    Facts: `surgery`, see `_tell`.

    Raises:
        InvalidParams, IncompatibleRecipe, InvalidDataset, SignatureMismatch, InvalidModel, UnsupportedOperator: see
            `surgery.depth.shrink`, `lift` and `export`.
    """
    from workers.surgery import factoring
    from workers.surgery.clock import clock
    from workers.surgery.counting import layers
    from workers.surgery.depth import shrink
    from workers.surgery.statistics import moments, restore
    from workers.surgery.written import check, write
    from workers.torch.model import TorchModel
    from workers.training.passing import folder

    opened, network = factoring.opened(model)
    before = {one.name: one for one in layers(network, opened.inputs)}
    with folder(ctx) as work:
        found = shrink(opened, before, params, ctx, clock(ctx, work))
        left = TorchModel(found.network, opened.inputs, opened.outputs)
        samples = ctx.samples["train"]
        if params.recalibrate and not samples.synthetic and samples.count > 1:
            given = moments(opened, ctx, params.samples)
            held = dict(found.network.named_modules())
            wanted = {name: one for name, one in given.items() if name in held}
            ctx.facts["recalibrated"] = restore(left, wanted, ctx, params.samples)
        write(left, ctx.out / factoring.ENTRY)
    check(left, ctx.out / factoring.ENTRY, SPEC.name)
    _tell(found, before, ctx)
    return ModelHandle(ctx.out, factoring.ENTRY, "torch-export", tree_digest(ctx.out))


def _tell(found: "Shrunk", before: "Mapping[str, LayerCount]", ctx: PassContext) -> None:
    """Facts: `surgery` {parameters [before, after], flops [before, after], layers: [{name, kind, layers, error, parameters [before,
    after], flops [before, after]}], left_out: [{name, reason}], latency: [{branches, flops, latency, low, high}]}: the branches in the
    order in which they went, with the layers that went with each and the relative root mean square error of the network's outputs then;
    `recalibrated`, the layers that were fitted anew, see `statistics.restore`.
    """
    from workers.surgery.counting import totals
    from workers.surgery.factoring import reasons

    parameters, flops = totals(list(before.values()))
    rows, whole = [], (parameters, flops)
    for drop in found.drops:
        saved = parameters - drop.parameters, flops - drop.flops
        parameters, flops = drop.parameters, drop.flops
        rows.append(
            {
                "name": drop.branch.name,
                "kind": "branch",
                "layers": list(drop.branch.layers),
                "error": drop.error,
                "parameters": [saved[0], 0],
                "flops": [saved[1], 0],
            }
        )
    ctx.facts["surgery"] = {
        "parameters": [whole[0], parameters],
        "flops": [whole[1], flops],
        "layers": rows,
        "left_out": [{"name": name, "reason": why} for name, why in found.left_out.items()],
        **({"latency": found.tried} if found.tried else {}),
    }
    dropped = "; ".join(f"{row['name']} ({row['error']:.1%})" for row in rows)
    ctx.say(
        f"{len(rows)} residual branches were dropped: {flops / max(whole[1], 1):.1%} of the operations and "
        f"{parameters / max(whole[0], 1):.1%} of the parameters are left. In order, with what the outputs were off by then: {dropped}."
    )
    if found.left_out:
        ctx.say(f"Left as they are: {reasons(found.left_out)}.")
    if fitted := ctx.facts.get("recalibrated"):
        ctx.say(f"{len(fitted)} layers and batch norms were fitted anew to what they give on data.")
