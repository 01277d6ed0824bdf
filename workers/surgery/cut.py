"""Channels taken out of a network: weights, the settings of layers, and the sizes that calls name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from workers.surgery.channels import Coupling
from workers.surgery.rules import name_of
from workers.surgery.sets import slabs
from workers.torch.layers import arguments

aten = torch.ops.aten


def cut(network: fx.GraphModule, coupling: Coupling, units: list[int]) -> None:
    """Remove units from the network that was coupled, or a copy of it, in place."""
    removed = torch.tensor(sorted(units), dtype=torch.long)
    _cut_weights(network, coupling, removed)
    for name, layer in network.named_modules():
        _settings(name, layer, coupling, removed)
    for node in network.graph.nodes:
        if node.name in coupling.trace.sized:
            _resize(node, _Sizes(coupling, node, removed))
    network.graph.lint()
    network.recompile()


def _cut_weights(network: fx.GraphModule, coupling: Coupling, removed: Tensor) -> None:
    """A weight that has several names stays one."""
    kept: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
    for bound in coupling.trace.bound.values():
        weight = getattr(network.get_submodule(bound.layer), bound.attribute)
        places = kept.setdefault(id(weight), (weight, {}))[1]
        places[bound.axis] = coupling.kept(bound.ids, removed)
    for name, ids in coupling.trace.held.items():
        owner, _, last = name.rpartition(".")
        weight = getattr(network.get_submodule(owner), last)
        places = kept.setdefault(id(weight), (weight, {}))[1]
        for axis in range(ids.dim()):
            places.setdefault(axis, coupling.kept(slabs(ids, axis), removed))
    smaller = {
        number: _smaller(weight, places)
        for number, (weight, places) in kept.items()
        if any(len(place) < weight.shape[axis] for axis, place in places.items())
    }
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in smaller:
                module.register_parameter(name, smaller[id(parameter)])  # type: ignore[arg-type]
        for name, buffer in module._buffers.items():
            if id(buffer) in smaller:
                setattr(module, name, smaller[id(buffer)])


def _smaller(weight: Tensor, places: dict[int, Tensor]) -> Tensor:
    found = weight.detach()
    for axis, place in places.items():
        found = found.index_select(axis, place.to(found.device))
    return nn.Parameter(found, weight.requires_grad) if isinstance(weight, nn.Parameter) else found


def _settings(name: str, layer: nn.Module, coupling: Coupling, removed: Tensor) -> None:
    """Make a layer say what its weights are."""
    groups = coupling.trace.groups.get(name)
    count = 1 if groups is None else len(coupling.kept(groups, removed))
    if isinstance(layer, _ConvNd):
        layer.groups = count
        across = layer.weight.shape[1] * count
        sides = (layer.weight.shape[0], across)
        layer.in_channels, layer.out_channels = sides if layer.transposed else sides[::-1]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, _BatchNorm) and layer.running_mean is not None:
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.GroupNorm) and groups is not None:
        layer.num_groups = count
        layer.num_channels = len(coupling.kept(groups.reshape(-1, 1), removed))
    elif isinstance(layer, nn.LayerNorm) and name in coupling.trace.normed:
        ids = coupling.trace.normed[name]
        first = ids.dim() - len(layer.normalized_shape)
        layer.normalized_shape = tuple(
            len(coupling.kept(slabs(ids, axis), removed)) for axis in range(first, ids.dim())
        )


class _Sizes:
    """The sizes of what a call reads and gives, before and after."""

    def __init__(self, coupling: Coupling, node: fx.Node, removed: Tensor):
        self._coupling, self._removed = coupling, removed
        self._before, self._after = coupling.trace.sized[node.name]

    def given(self) -> list[tuple[int, int]]:
        """(size, new size) of each axis of the one value that the call gives."""
        return [(size, self._kept(self._after, axis)) for axis, size in enumerate(self._after.shape)]

    def parts(self, axis: int) -> list[tuple[int, int]]:
        """(size, new size) along an axis of each value that the call gives."""
        return [(part.shape[axis], self._kept(part, axis)) for part in self._after]

    def ahead(self, axis: int, position: int) -> int:
        """How many places before a position of the input's axis stay."""
        return self._ahead(self._before, axis, position)

    def ahead_given(self, axis: int, position: int) -> int:
        """The same of the value that the call gives."""
        return self._ahead(self._after, axis, position)

    def read(self, axis: int) -> tuple[int, int]:
        """(size, new size) of an axis of the input."""
        return self._before.shape[axis], self._kept(self._before, axis)

    @property
    def rank(self) -> int:
        """The number of axes of the input."""
        return int(self._before.dim())

    def _kept(self, ids: Tensor, axis: int) -> int:
        return len(self._coupling.kept(slabs(ids, axis), self._removed))

    def _ahead(self, ids: Tensor, axis: int, position: int) -> int:
        kept = self._coupling.kept(slabs(ids, axis), self._removed)
        return int((kept < position).sum())


def _resize(node: fx.Node, sizes: _Sizes) -> None:
    rule = _RESIZED.get(name_of(node))
    if rule is not None:
        rule(node, sizes)


def _view(node: fx.Node, sizes: _Sizes) -> None:
    _write(node, 1, sizes.given())


def _unflatten(node: fx.Node, sizes: _Sizes) -> None:
    axis, count = int(node.args[1]) % sizes.rank, len(node.args[2])  # type: ignore[arg-type]
    _write(node, 2, sizes.given()[axis : axis + count])


def _normed(node: fx.Node, sizes: _Sizes) -> None:
    count = len(node.args[1])  # type: ignore[arg-type]
    _write(node, 1, sizes.given()[-count:])


def _write(node: fx.Node, argument: int, changes: list[tuple[int, int]]) -> None:
    """Sizes that changed get their new number; one that is computed from free dimensions is left to follow from the others."""
    given: list[Any] = list(node.args[argument])  # type: ignore[arg-type]
    for place, (before, now) in enumerate(changes):
        if before != now and given[place] != -1:
            given[place] = now if isinstance(given[place], int) else -1
    node.update_arg(argument, given)


def _slice(node: fx.Node, sizes: _Sizes) -> None:
    given = arguments(node)
    axis = int(given["dim"]) % sizes.rank
    before, now = sizes.read(axis)
    if before == now:
        return
    ends = [given["start"], given["end"]]
    for number, end in enumerate(ends):
        if isinstance(end, int):
            position = max(0, end + before) if end < 0 else min(end, before)
            ends[number] = sizes.ahead(axis, position)
    node.args = (node.args[0], axis, *ends, given["step"])


def _narrow(node: fx.Node, sizes: _Sizes) -> None:
    given = arguments(node)
    axis, start, length = (given[name] for name in ("dim", "start", "length"))
    before, now = sizes.read(axis % sizes.rank)
    if before == now:
        return
    first = sizes.ahead(axis % sizes.rank, start % before)
    end = sizes.ahead(axis % sizes.rank, start % before + length)
    node.args = (node.args[0], axis, first, end - first)


def _split(node: fx.Node, sizes: _Sizes) -> None:
    axis = int(arguments(node)["dim"]) % sizes.rank
    parts = sizes.parts(axis)
    if any(before != now for before, now in parts):
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], [now for _, now in parts], axis), {}


def _pad(node: fx.Node, sizes: _Sizes) -> None:
    pads = list(arguments(node)["pad"])
    for number in range(0, len(pads), 2):
        axis = sizes.rank - 1 - number // 2
        size, now = sizes.given()[axis]
        if size != now and isinstance(pads[number + 1], int):
            pads[number] = sizes.ahead_given(axis, pads[number])
            pads[number + 1] = now - sizes.ahead_given(axis, size - pads[number + 1])
    node.update_arg(1, pads)


_RESIZED: dict[str, Callable[[fx.Node, _Sizes], None]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand"), _view),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normed),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "unflatten": _unflatten,
    "slice": _slice,
    "narrow": _narrow,
}
