"""Which channels of a network hang together: what can be removed, and what goes with it.

Every channel that a layer makes gets a number, and the numbers run through the graph (`trace`), where they meet others. That is
more general than a graph of dependencies between layers, as Fang et al., DepGraph, 2023 (https://arxiv.org/abs/2301.12900)
build it: a channel shuffle, heads of attention and a flattened image are what views and transposes make of the numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from app.errors import IncompatibleRecipe
from workers.surgery.bonds import settle
from workers.surgery.naming import check_ignored, is_ignored
from workers.surgery.sets import FIXED, distinct, slim
from workers.surgery.trace import Reading, Trace, Tracer
from workers.torch.exporting import sizes_that_run
from workers.torch.model import TorchModel, example_inputs

STAGE = "prune-channels"


@dataclass(frozen=True)
class Coupling:
    """The channels of a network. A unit is a set of channels that go together, told by the number of its set."""

    trace: Trace
    units: tuple[int, ...]
    layers: dict[
        str, Tensor
    ]  # the set of each channel that a layer makes, by the layer's name; what is fixed has 0
    guarded: tuple[Tensor, ...]  # sets of which some must stay each: what layers make, and parts of it

    @property
    def fixed(self) -> dict[str, str]:
        """By place: why channels that meet there are never removed."""
        return self.trace.sets.reasons

    def kept(self, table: Tensor, removed: Tensor) -> Tensor:
        """The places of ids [size, all that stands there] that stay when units are removed, [n] in order."""
        gone = torch.isin(self.trace.sets.of(slim(table)), removed).all(1)
        return (~gone.expand(len(table))).nonzero()[:, 0]

    def staying(self, layer: str, units: Iterable[int]) -> Tensor:
        """Which of the channels that a layer makes stay when units are removed: [channels] of truth values."""
        return ~torch.isin(self.layers[layer], torch.tensor(sorted(units)))

    def readings(self) -> Iterable[tuple[Reading, Tensor]]:
        """Each axis of a layer's weight, and the set of each of its places, [size]; FIXED where several sets stand there."""
        for reading in self.trace.read:
            sets = self.trace.sets.of(slim(reading.ids)).expand(reading.ids.shape)
            same = (sets == sets[:, :1]).all(1)
            yield reading, torch.where(same, sets[:, 0], torch.full_like(sets[:, 0], FIXED))


def couple(model: TorchModel, ignore: Sequence[str] = ()) -> Coupling:
    """Run a lifted network on inputs that fit its signature, and see which channels hang together.

    `ignore` are names of layers, or patterns with `*` and `?`, whose outputs stay as they are.

    Raises:
        InvalidParams: a name in `ignore` matches no layer.
        IncompatibleRecipe: the network has no layer with channels that could be removed.
        InvalidModel: it does not run on inputs that fit its signature.
    """
    network = model.module
    assert isinstance(network, fx.GraphModule)
    tracer = Tracer(network)
    inputs = example_inputs(model.inputs, dims=sizes_that_run(model))
    with torch.no_grad():
        tracer.run(*inputs)
    trace = tracer.trace
    check_ignored(ignore, list(trace.makers), "layer with channels", STAGE)
    for name, ids in trace.makers.items():
        if is_ignored(name, ignore):
            trace.sets.fix(ids, name, "it is to be left as it is (`ignore`)")
    settle(trace.sets, trace.bonds)
    made = trace.sets.made()
    layers = {name: trace.sets.of(ids) for name, ids in trace.makers.items()}
    guarded = [*layers.values(), *(trace.sets.of(ids) for ids in trace.parts)]
    return Coupling(trace, tuple(made.tolist()), layers, tuple(guarded))


def check_prunable(coupling: Coupling) -> None:
    """Raises IncompatibleRecipe where no channel can be removed."""
    largest = max((len(distinct(sets[sets != FIXED])) for sets in coupling.layers.values()), default=0)
    if largest > 1:
        return
    if not coupling.layers:
        raise IncompatibleRecipe(
            "the network has no layer with channels: no convolution, linear layer or embedding",
            stage=STAGE,
            hint="leave the pass out of the recipe",
        )
    reasons = "; ".join(f"{place}: {why}" for place, why in list(coupling.fixed.items())[:5])
    raise IncompatibleRecipe(
        f"no layer of the network has channels that could be removed: {reasons}",
        stage=STAGE,
        hint="outputs keep their size; take layers out of `ignore`, or leave the pass out of the recipe",
    )
