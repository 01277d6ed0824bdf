"""The pass `prune-weights`: the smallest weights set to zero."""

from typing import TYPE_CHECKING, Any

from app.catalog.pass_params.prune_weights import DEFAULT_RATIO, PruneWeightsParams
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import RuntimeSpec
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

if TYPE_CHECKING:
    from torch import Tensor

    from workers.surgery.masks import Prunable

SPEC = PASSES["prune-weights"]
ENTRY = "model.pt2"
TOLD = 1000  # layers


@implements(SPEC.name)
def apply(model: ModelHandle, params: PruneWeightsParams, ctx: PassContext) -> ModelHandle:
    """Set weights to zero, and export the network with its signature as it was.

    Facts: `pruned` {weights, zeros, layers: [{name, weights, zeros}], left_out: [{name, reason}]}: of all weights that the pass
    may touch.

    Raises:
        InvalidParams, IncompatibleRecipe: see `masks.prunable`.
        InvalidModel, UnsupportedOperator: see `lift` and `export`.
    """
    from torch import fx

    from workers.surgery import masks
    from workers.torch.lift import lift
    from workers.torch.model import TorchModel
    from workers.torch.program import export, load_program, save_program

    program = load_program(model.path)
    network = lift(program.program)
    assert isinstance(network, fx.GraphModule)
    found = masks.prunable(network, params.ignore, params.m)
    masks.apply(found.weights, kept(found, params))
    _tell(found, params, ctx)
    exported = export(TorchModel(network, program.inputs, program.outputs))
    save_program(exported, program.inputs, program.outputs, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))


def kept(found: "Prunable", params: PruneWeightsParams) -> dict[str, "Tensor"]:
    """What stays of each weight."""
    from workers.surgery import masks

    if params.n is not None and params.m is not None:
        return masks.n_of_m(found.weights, params.n, params.m)
    ratio = DEFAULT_RATIO if params.ratio is None else params.ratio
    return masks.by_magnitude(found.weights, ratio, per_layer=params.scope == "per-layer")


def speed_told() -> str:
    """Which runtimes make something of zeros."""
    plain = RuntimeSpec.sparsity
    told = [f"{name}: {spec.sparsity}" for name, spec in RUNTIMES.items() if spec.sparsity != plain]
    others = [name for name, spec in RUNTIMES.items() if spec.sparsity == plain]
    return f"What zeros are worth on a runtime. {'. '.join(told)}. {', '.join(others)}: {plain}."


def _tell(found: "Prunable", params: PruneWeightsParams, ctx: PassContext) -> None:
    layers: list[dict[str, Any]] = [
        {"name": name, "weights": weight.numel(), "zeros": weight.numel() - int(weight.count_nonzero())}
        for name, weight in found.weights.items()
    ]
    weights, zeros = (sum(layer[key] for layer in layers) for key in ("weights", "zeros"))
    ctx.facts["pruned"] = {
        "weights": weights,
        "zeros": zeros,
        "layers": layers[:TOLD],
        "left_out": [{"name": name, "reason": why} for name, why in found.left_out.items()][:TOLD],
    }
    ctx.say(f"{zeros:,} of {weights:,} weights of {len(layers)} layers are zero ({zeros / weights:.1%}).")
    if found.left_out:
        some = [f"{name} {why}" for name, why in list(found.left_out.items())[:5]]
        ctx.say(f"Left as they are: {'; '.join(some)}" + ("; …" if len(found.left_out) > 5 else "") + ".")
    if zeros:
        ctx.say(speed_told())
