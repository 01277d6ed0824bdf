"""The pass `low-rank`: linear layers and 1×1 convolutions as two narrow ones."""

from typing import TYPE_CHECKING

from app.catalog.pass_params.factor import LowRankParams
from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.passes import implements

if TYPE_CHECKING:
    from torch import fx

    from workers.surgery.low_rank import Narrowable, Spectrum

SPEC = PASSES["low-rank"]
KINDS = "linear layer and no 1×1 convolution"


@implements(SPEC.name)
def apply(model: ModelHandle, params: LowRankParams, ctx: PassContext) -> ModelHandle:
    """Replace layers, and export the network anew with the signature that it had.

    Facts: `surgery`, see `factoring.tell`.

    Raises:
        IncompatibleRecipe: no layer would become smaller, or `keep_parameters` is out of reach.
        InvalidParams: `ignore` names what is not there.
        SignatureMismatch, InvalidDataset: the calibration data do not fit.
        InvalidModel, UnsupportedOperator: see `lift` and `export`.
    """
    from workers.surgery import factoring
    from workers.surgery.counting import layers
    from workers.surgery.low_rank import WIDEST, narrowed, of_outputs, of_weights

    opened, network = factoring.opened(model)
    before = {one.name: one for one in layers(network, opened.inputs)}
    held, left_out = _layers(network, params)
    spectra: dict[str, Spectrum] = {}
    if (samples := ctx.samples.get("calibration")) is not None:
        seen = {name: layer for name, layer in held.items() if min(layer.weight.shape[:2]) <= WIDEST}
        spectra = of_outputs(opened, seen, samples, params.samples, SPEC.name)
        if unseen := sorted(held.keys() - seen.keys()):
            ctx.warn(f"too wide for components of their outputs, so fitted on weights: {', '.join(unseen)}")
    spectra |= {name: of_weights(layer) for name, layer in held.items() if name not in spectra}
    ranks = _ranks(held, spectra, sum(one.parameters for one in before.values()), params)
    for name in held.keys() - ranks.keys():
        left_out[name] = "would not become smaller"
    if not ranks:
        raise IncompatibleRecipe(
            f"no layer would become smaller: {factoring.reasons(left_out) or 'there is none of the kind'}",
            stage=SPEC.name,
            hint="ask for a lower rank or energy, take layers out of `ignore`, or leave the pass out of the recipe",
        )
    parts = {
        name: (narrowed(held[name], spectra[name], ranks[name]), spectra[name].error(ranks[name]))
        for name in held
        if name in ranks
    }
    return factoring.finished(
        opened,
        network,
        parts,
        left_out,
        before,
        ctx,
        SPEC.name,
        {name: {"rank": ranks[name]} for name in ranks},
    )


def _layers(
    network: "fx.GraphModule", params: LowRankParams
) -> tuple[dict[str, "Narrowable"], dict[str, str]]:
    """What can be replaced, and why the others cannot."""
    from math import prod

    from torch import nn

    from workers.surgery.factoring import obstacle, shared
    from workers.surgery.low_rank import KINDS as TYPES
    from workers.surgery.low_rank import break_even
    from workers.surgery.naming import called, check_ignored

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Linear):
            return True
        assert isinstance(layer, nn.modules.conv._ConvNd)
        return prod(layer.kernel_size) == 1 and layer.groups == 1

    layers = {name: layer for name, layer in called(network, TYPES).items() if fits(layer)}
    check_ignored(params.ignore, layers, KINDS, SPEC.name)
    taken = shared(network)
    found: dict[str, Narrowable] = {}
    left_out: dict[str, str] = {}
    for name, layer in layers.items():
        assert isinstance(layer, TYPES)
        if (reason := obstacle(name, layer, params.ignore, taken, SPEC.name)) is not None:
            left_out[name] = reason
        elif break_even(layer) < 1:
            left_out[name] = "is too narrow"
        else:
            found[name] = layer
    return found, left_out


def _ranks(
    held: "dict[str, Narrowable]", spectra: "dict[str, Spectrum]", parameters: int, params: LowRankParams
) -> dict[str, int]:
    """The rank of each layer that becomes smaller.

    Raises:
        IncompatibleRecipe: `keep_parameters` is out of reach.
    """
    from workers.surgery.factoring import at_least
    from workers.surgery.low_rank import break_even, least, ranks_under

    if params.keep_parameters is None:
        wanted = {
            name: params.rank if params.rank is not None else spectra[name].rank_of(params.least_energy)
            for name in held
        }
        return {name: rank for name, rank in wanted.items() if rank <= break_even(held[name])}
    whole = {name: layer.weight.numel() for name, layer in held.items()}
    costs = {name: sum(layer.weight.shape[:2]) for name, layer in held.items()}
    others = parameters - sum(whole.values())
    found = (
        ranks_under(spectra, costs, whole, int(params.keep_parameters * parameters) - others) if held else {}
    )
    if found is None:
        nearest = at_least((others + least(costs, whole)) / parameters)
        raise IncompatibleRecipe(
            f"at rank 1 everywhere {nearest} of the parameters stay, more than {params.keep_parameters:g}",
            stage=SPEC.name,
            param="keep_parameters",
            hint=f"ask for {nearest} or more, or add `prune-channels`: embeddings, norms and other convolutions stay as they are",
        )
    return found
