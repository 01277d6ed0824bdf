"""The pass `depthwise-separable`: convolutions as a depthwise and a pointwise one."""

from typing import TYPE_CHECKING

from app.catalog.pass_params.factor import DepthwiseSeparableParams
from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.passes import implements

if TYPE_CHECKING:
    from torch import fx

    from workers.surgery.counting import LayerCount
    from workers.surgery.separable import Convolution, Separable
    from workers.torch.model import TorchModel

SPEC = PASSES["depthwise-separable"]
KINDS = "convolution"


@implements(SPEC.name)
def apply(model: ModelHandle, params: DepthwiseSeparableParams, ctx: PassContext) -> ModelHandle:
    """Replace convolutions, and export the network anew with the signature that it had.

    Facts: `surgery`, see `factoring.tell`.

    Raises:
        IncompatibleRecipe: no convolution can be replaced, or `keep_flops` is out of reach.
        InvalidParams: `ignore` names what is not there.
        SignatureMismatch, InvalidDataset: the calibration data do not fit.
        InvalidModel, UnsupportedOperator: see `lift` and `export`.
    """
    from workers.surgery import factoring
    from workers.surgery.counting import layers
    from workers.surgery.observing import observe
    from workers.surgery.separable import Mixing, factors

    opened, network = factoring.opened(model)
    before = {one.name: one for one in layers(network, opened.inputs)}
    convolutions, left_out = _convolutions(network, opened, params)
    made = {name: factors(layer, params.multiplier) for name, layer in convolutions.items()}
    for name in [name for name, one in made.items() if one.weights >= convolutions[name].weight.numel()]:
        left_out[name] = "would save nothing"
        del made[name], convolutions[name]
    samples = ctx.samples.get("calibration")
    if made and samples is not None:
        mixings = {name: Mixing(layer, made[name]) for name, layer in convolutions.items()}
        observe(opened, mixings, samples, params.samples, SPEC.name)
        for mixing in mixings.values():
            mixing.settle()
    if not made:
        raise IncompatibleRecipe(
            f"no convolution can be made depthwise-separable: {factoring.reasons(left_out) or 'there is none'}",
            stage=SPEC.name,
            hint="take layers out of `ignore`, set first_layer, lower the multiplier, or leave the pass out of the recipe",
        )
    chosen = _chosen(made, convolutions, before, params)
    parts = {
        name: ({"depthwise": one.depthwise, "pointwise": one.pointwise}, one.error)
        for name, one in made.items()
        if name in chosen
    }
    for name in made.keys() - chosen:
        left_out[name] = "would lose more for what it saves"
    return factoring.finished(opened, network, parts, left_out, before, ctx, SPEC.name)


def _convolutions(
    network: "fx.GraphModule", model: "TorchModel", params: DepthwiseSeparableParams
) -> tuple[dict[str, "Convolution"], dict[str, str]]:
    """What can be replaced, and why the others cannot."""
    from math import prod

    from workers.surgery.factoring import obstacle, shared
    from workers.surgery.naming import called, check_ignored
    from workers.surgery.separable import CONVOLUTIONS

    held = called(network, CONVOLUTIONS)
    check_ignored(params.ignore, held, KINDS, SPEC.name)
    first = next(iter(held), None)
    taken = shared(network)
    found: dict[str, Convolution] = {}
    left_out: dict[str, str] = {}
    for name, layer in held.items():
        assert isinstance(layer, CONVOLUTIONS)
        if (reason := obstacle(name, layer, params.ignore, taken, SPEC.name)) is not None:
            left_out[name] = reason
        elif prod(layer.kernel_size) == 1:
            left_out[name] = "has a kernel of one place"
        elif layer.weight.shape[1] == 1:
            left_out[name] = "reads one channel for each output"
        elif name == first and not params.first_layer:
            left_out[name] = "is the first (`first_layer`)"
        else:
            found[name] = layer
    return found, left_out


def _chosen(
    made: "dict[str, Separable]",
    convolutions: "dict[str, Convolution]",
    before: "dict[str, LayerCount]",
    params: DepthwiseSeparableParams,
) -> set[str]:
    """Layers to replace: those that lose least for what they save, until enough is saved.

    Raises:
        IncompatibleRecipe: all of them do not save enough, or none is near enough.
    """
    from workers.surgery.factoring import at_least

    saved = {
        name: before[name].flops * (1 - one.weights / convolutions[name].weight.numel())
        for name, one in made.items()
    }
    order = sorted(made, key=lambda name: (made[name].error ** 2 / saved[name], name))
    if params.max_error is not None:
        order = [name for name in order if made[name].error <= params.max_error]
        if not order:
            best = min(made, key=lambda name: made[name].error)
            raise IncompatibleRecipe(
                f"no layer can be replaced within an error of {params.max_error:g}: the nearest is {best} with "
                f"{made[best].error:.3g}",
                stage=SPEC.name,
                param="max_error",
                hint="allow a larger max_error, or a larger multiplier",
            )
    if params.keep_flops is None:
        return set(order)
    total = sum(one.flops for one in before.values())
    wanted = total * (1 - params.keep_flops)
    chosen: set[str] = set()
    reached = 0.0
    for name in order:
        if reached >= wanted:
            break
        chosen.add(name)
        reached += saved[name]
    if reached < wanted:
        nearest = at_least(1 - reached / total)
        raise IncompatibleRecipe(
            f"replacing {len(order)} convolutions leaves {nearest} of the operations, more than {params.keep_flops:g}",
            stage=SPEC.name,
            param="keep_flops",
            hint=f"ask for {nearest} or more, a lower multiplier, a larger max_error, or add `prune-channels`",
        )
    return chosen
