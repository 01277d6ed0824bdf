"""Channels pruned from a lifted network, in steps, until a share of them or of a cost has gone."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.measurements.compare import Interval
from workers.context import PassContext
from workers.surgery.channels import Coupling, check_prunable, couple
from workers.surgery.choice import Choice
from workers.surgery.counting import LayerCount, layers, totals
from workers.surgery.cut import cut
from workers.surgery.importance import BY_DATA, over_costs, scores_of
from workers.surgery.latency_search import TOLERANCE
from workers.surgery.statistics import moments, restore
from workers.surgery.targets import by_cost, by_latency, by_ratio
from workers.torch.exporting import export
from workers.torch.lift import lift
from workers.torch.model import TorchModel

Time = Callable[[TorchModel], Interval]


def prune(model: TorchModel, params: PruneChannelsParams, ctx: PassContext, time: Time | None) -> TorchModel:
    """A smaller network with the same signature; the given one is changed. `time` measures a candidate, see `context.Timing`.

    Facts: `units` {removable, removed}, `layers` [{name, kind, channels, parameters, flops: {before, after}}], `parameters`,
    `flops` and `size_bytes` {before, after}, `held_back` [{place, why}], `latency` [{flops, latency, low, high}], the shares of
    each measurement, `latency_left`, that of the network that was taken, and `latency_met`, whether it is within the tolerance;
    `recalibrated`, the layers and batch norms that were fitted to what they give on data, see `statistics.restore`.

    Raises:
        InvalidParams, IncompatibleRecipe, InvalidDataset, SignatureMismatch, InvalidModel: see `couple`, `scores_of`, `targets`.
    """
    steps = params.steps if params.importance in BY_DATA else 1
    if params.target != "latency" or steps == 1:
        return _pruned(model, params, steps, ctx, time)
    kept = copy.deepcopy(model.module)
    try:
        return _pruned(model, params, steps, ctx, time)
    except _TooFast:
        ctx.say(
            "Operations that go before the last step make it faster than asked for: importance is estimated once."
        )
        return _pruned(TorchModel(kept, model.inputs, model.outputs), params, 1, ctx, time)


class _TooFast(Exception):
    """What earlier steps left takes less of the latency than is to stay."""


def _pruned(
    model: TorchModel, params: PruneChannelsParams, steps: int, ctx: PassContext, time: Time | None
) -> TorchModel:
    before = _Costs(model)
    removable, removed = 0, 0
    for step in range(1, steps + 1):
        coupling = couple(model, params.ignore)
        check_prunable(coupling)
        scores = scores_of(model, coupling, params, ctx)
        if params.target is not None and params.importance in BY_DATA:
            costs = before if step == 1 else _Costs(model)
            scores = over_costs(scores, coupling, costs.by_layer(params.target))
        choice = Choice(
            coupling,
            scores,
            per_layer=params.scope == "per-layer",
            keep=params.keep,
            round_to=params.round_to,
        )
        units = _chosen(_Trial(model, coupling, before), choice, params, (step, steps), ctx, time)
        if step == 1:
            removable = len(coupling.units)
            ctx.facts["held_back"] = [{"place": place, "why": why} for place, why in coupling.fixed.items()]
        removed += len(units)
        network = model.module
        assert isinstance(network, fx.GraphModule)
        anew = bool(units) and params.recalibrate and _real(ctx)
        given = moments(model, ctx, params.samples) if anew else {}
        cut(network, coupling, sorted(units))
        if anew:
            wanted = {name: one.of(coupling.staying(name, units)) for name, one in given.items()}
            ctx.facts["recalibrated"] = restore(model, wanted, ctx, params.samples)
        if step < steps and not _free(model):
            model = TorchModel(lift(export(model)), model.inputs, model.outputs)
    ctx.facts["units"] = {"removable": removable, "removed": removed}
    _tell(before, _Costs(model), params, ctx)
    return model


class _Costs:
    """What a network costs, by layer and in all."""

    def __init__(self, model: TorchModel):
        assert isinstance(model.module, fx.GraphModule)
        self.layers = layers(model.module, model.inputs)
        self.parameters, self.flops = totals(self.layers)
        self.size = size_bytes(model.module)
        self.channels = {
            name: width for name, layer in model.module.named_modules() if (width := _width(layer))
        }

    def of(self, what: str) -> int:
        """`flops`, `parameters` or `size`."""
        return {"flops": self.flops, "parameters": self.parameters, "size": self.size}[what]

    def by_layer(self, what: str) -> dict[str, int]:
        """What each layer costs of it; latency is taken to follow the operations."""
        return {
            one.name: one.flops if what in ("flops", "latency") else one.parameters for one in self.layers
        }


class _Trial:
    """Copies of a network without some units."""

    def __init__(self, model: TorchModel, coupling: Coupling, before: _Costs):
        self._model, self._coupling, self._before = model, coupling, before
        self._known: dict[tuple[str, frozenset[int]], float] = {}

    def without(self, units: set[int]) -> TorchModel:
        """A copy without these units."""
        twin = copy.deepcopy(self._model.module)
        assert isinstance(twin, fx.GraphModule)
        cut(twin, self._coupling, sorted(units))
        return TorchModel(twin, self._model.inputs, self._model.outputs)

    def share(self, what: str, units: set[int]) -> float:
        """The share of a cost of the network that the pass was given, that is left without these units."""
        key = what, frozenset(units)
        if key not in self._known:
            self._known[key] = _Costs(self.without(units)).of(what) / max(1, self._before.of(what))
        return self._known[key]


def _chosen(
    trial: _Trial,
    choice: Choice,
    params: PruneChannelsParams,
    step: tuple[int, int],
    ctx: PassContext,
    time: Time | None,
) -> set[int]:
    """What goes in one step of several (its number from 1, their count): each takes the same share of what was there at first."""
    number, steps = step
    if params.target is None:
        before, now = (1 - params.share * one / steps for one in (number - 1, number))
        return by_ratio(choice, 1 - now / before)
    share, what = 1 - (1 - params.to) * number / steps, params.target
    if what == "latency" and number == steps:
        assert time is not None
        return _by_latency(trial, choice, share, ctx, time)
    what = "flops" if what == "latency" else what
    return by_cost(choice, lambda units: trial.share(what, units), share, what).units


def _by_latency(trial: _Trial, choice: Choice, share: float, ctx: PassContext, time: Time) -> set[int]:
    """What goes for a share of the latency.

    Raises:
        _TooFast: too little is left before anything goes.
        IncompatibleRecipe: see `by_latency`.
    """
    found = by_latency(
        choice,
        lambda units: trial.share("flops", units),
        lambda units: time(trial.without(units)),
        share,
        ctx.facts.setdefault("latency", []).append,
    )
    if not found.met and not found.network.units and found.network.flops < 1:
        raise _TooFast
    ctx.facts["latency_left"] = found.network.share.value
    ctx.facts["latency_met"] = found.met
    if not found.met:
        slower = f"; the next slower one takes {found.slower.share.value:.3f}" if found.slower else ""
        ctx.warn(
            f"no network within {TOLERANCE:.0%} of {share:g} of the latency was found: the nearest reached that is faster takes "
            f"{found.network.share.value:.3f}{slower}. Channels go in steps that leap over it: try another `round_to`, `keep` or `scope`"
        )
    return set(found.network.units)


def _real(ctx: PassContext) -> bool:
    """Whether there are data that say what the network sees."""
    samples = ctx.samples.get("train")
    return samples is not None and not samples.synthetic and samples.count > 1


def _free(model: TorchModel) -> bool:
    """Whether it takes any batch; else its sizes are written anew for gradients, by what export says of every call."""
    return all(entry["shape"] and not isinstance(entry["shape"][0], int) for entry in model.inputs)


def size_bytes(network: nn.Module) -> int:
    """The bytes of all weights and buffers, those that are one counted once."""
    held: dict[int, Tensor] = {id(one): one for one in (*network.parameters(), *network.buffers())}
    return sum(one.numel() * one.element_size() for one in held.values())


def _width(layer: nn.Module) -> int | None:
    """How many channels a layer makes."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.embedding_dim if isinstance(layer, nn.Embedding) else None


def _tell(before: _Costs, after: _Costs, params: PruneChannelsParams, ctx: PassContext) -> None:
    now = {one.name: one for one in after.layers}
    ctx.facts["layers"] = [_change(one, now.get(one.name), before, after) for one in before.layers]
    for name, what in (("parameters", "parameters"), ("flops", "flops"), ("size_bytes", "size")):
        ctx.facts[name] = {"before": before.of(what), "after": after.of(what)}
    narrower = [
        f"{name} {width} → {after.channels[name]}"
        for name, width in before.channels.items()
        if after.channels.get(name, width) != width
    ]
    units = ctx.facts["units"]
    shares = [
        f"{after.of(what) / max(1, before.of(what)):.1%} of the {words}"
        for what, words in (("flops", "FLOPs"), ("parameters", "parameters"))
    ]
    ctx.say(
        f"Removed {units['removed']} of {units['removable']} units of channels by {params.importance}, "
        f"{params.scope}: {shares[0]} and {shares[1]} stay."
    )
    if narrower:
        ctx.say(f"Channels: {'; '.join(narrower)}.")
    if tries := ctx.facts.get("latency"):
        ctx.say(
            f"Latency on the target: {ctx.facts['latency_left']:.1%} of what it was, found in {len(tries)} measurements."
        )
    if fitted := ctx.facts.get("recalibrated"):
        ctx.say(f"{len(fitted)} layers and batch norms were fitted anew to what they give on data.")
    if units["removed"] == 0 and (params.target is not None or params.share > 0):
        ctx.warn("nothing was pruned: the layers are too narrow for so small a share, or for `round_to`")


def _change(one: LayerCount, now: LayerCount | None, before: _Costs, after: _Costs) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": one.name,
        "kind": one.kind,
        "parameters": {"before": one.parameters, "after": now.parameters if now else 0},
        "flops": {"before": one.flops, "after": now.flops if now else 0},
    }
    if one.name in before.channels:
        found["channels"] = {"before": before.channels[one.name], "after": after.channels[one.name]}
    return found
