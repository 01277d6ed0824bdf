"""Residual branches of a lifted network: f in y = x + f(x), where y = x is still a network of the same kind.

Found are additions of values of one shape of which one operand leads to the other, as in encoders, identity blocks, inverted
residuals. Where several terms are added (x + f(x) + g(x), in any order), each that x leads to is a branch. Terms that have no such
x among them, as both sides of a block that changes the size, are none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from workers.surgery.counting import LayerCount
from workers.surgery.liveness import Dropped, Liveness
from workers.surgery.liveness import without as _without

aten = torch.ops.aten
_ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}


@dataclass(frozen=True)
class Branch:
    """`addition` is the name of a node, `kept` the place among its operands of what it gives without the branch; `layers` are
    those that are called in the branch and that cost something, in the order of the graph."""

    name: str
    addition: str
    kept: int
    layers: tuple[str, ...]


class Branches:
    """The branches of a network whose layers are counted: `found`, and `left_out` with the reasons."""

    def __init__(self, network: fx.GraphModule, counts: Mapping[str, LayerCount]):
        self._network = network
        self._counts = counts
        self._nodes = {node.name: node for node in network.graph.nodes}
        self._flow = Liveness(network)
        self._calls: dict[str, int] = {}
        for node in network.graph.nodes:
            if node.op == "call_module":
                self._calls[str(node.target)] = self._calls.get(str(node.target), 0) + 1
        sides = list(self._sides())
        names = _names([self._naming(layers) for _, _, layers, _ in sides])
        self.found: list[Branch] = []
        self.left_out: dict[str, str] = {}
        for name, (addition, kept, layers, reason) in zip(names, sides, strict=True):
            if reason is None:
                self.found.append(Branch(name, addition.name, kept, layers))
            else:
                self.left_out[name] = reason

    def without(self, branches: Mapping[str, int]) -> fx.GraphModule:
        """The network without some branches (`kept` by `addition`). It shares what is left with the whole one."""
        dropped = self._dropped(branches)
        return _without(self._network, dropped, self._flow.unneeded(dropped), self._flow)

    def left(self, branches: Mapping[str, int]) -> list[Branch]:
        """The branches that the network still has without some."""
        needed = self._flow.needed(self._dropped(branches))
        return [
            one for one in self.found if self._nodes[one.addition] in needed and one.addition not in branches
        ]

    def saved(self, branches: Mapping[str, int], more: Branch) -> tuple[int, int]:
        """Parameters and FLOPs that go with one more branch; each call of a layer has its share of them."""
        before = self._flow.unneeded(self._dropped(branches))
        after = self._flow.unneeded(self._dropped({**branches, more.addition: more.kept}))
        return self._cost(after - before)

    def _dropped(self, branches: Mapping[str, int]) -> Dropped:
        return {self._nodes[name]: _operands(self._nodes[name])[kept] for name, kept in branches.items()}

    def _cost(self, nodes: set[fx.Node]) -> tuple[int, int]:
        parameters = flops = 0.0
        for node in nodes:
            for one in self._counted(node):
                share = self._calls.get(one.name, 1)
                parameters += one.parameters / share
                flops += one.flops / share
        return round(parameters), round(flops)

    def _counted(self, node: fx.Node) -> list[LayerCount]:
        """What a node costs; one that reads a graph of its own (`cond`), what is in it."""
        name = node.name if node.op == "call_function" else str(node.target)
        found = [self._counts[name]] if name in self._counts else []
        if node.op == "get_attr":
            found += [one for key, one in self._counts.items() if key.startswith(f"{name}.")]
        return found

    def _naming(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The layers that a branch is named after: norms are often another's neighbours, calls have names of their own."""
        computing = [name for name in names if name in self._calls and self._counts[name].flops]
        return tuple(computing or [name for name in names if name in self._calls] or names)

    def _sides(self) -> Iterator[tuple[fx.Node, int, tuple[str, ...], str | None]]:
        """Additions and the place of the operand to keep, with the layers that go then, and why it cannot be done."""
        order = {node: place for place, node in enumerate(self._network.graph.nodes)}
        behind = _behind(self._network.graph)
        for node in self._network.graph.nodes:
            if not _is_addition(node):
                continue
            for place, (kept, other) in enumerate((_operands(node), _operands(node)[::-1])):
                if place == 1 and node.kwargs.get("alpha", 1) != 1:
                    continue  # what is scaled is no stream that goes on
                if not any(behind[other] >> order[term] & 1 for term in _terms(node, kept)):
                    continue
                writes = self._flow.silenced({node: kept})
                gone = self._flow.unneeded({node: kept}, effects=not writes)
                layers = tuple(
                    dict.fromkeys(
                        one.name
                        for member in sorted(gone, key=order.__getitem__)
                        for one in self._counted(member)
                    )
                )
                reason = None
                if _kind(kept) != _kind(node) or _kind(other) != _kind(node):
                    reason = "is added to values of another shape"
                elif writes:
                    reason = "writes into a buffer or an input"
                if layers:
                    yield node, place, layers, reason


def _is_addition(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in _ADDITIONS
        and len(node.args) == 2
        and all(isinstance(one, fx.Node) for one in node.args)
        and node.args[0] is not node.args[1]
    )


def _operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    first, second = node.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    return first, second


def _terms(addition: fx.Node, kept: fx.Node) -> set[fx.Node]:
    """What is added to the other operand: the kept one, its own terms, and the other terms of the sum that this addition is part of."""
    found: set[fx.Node] = set()
    pending, part = [kept], addition
    while len(part.users) == 1 and _is_addition(user := next(iter(part.users))) and _same(user, part):
        pending += [one for one in _operands(user) if one is not part]
        part = user
    while pending:
        one = pending.pop()
        if one not in found:
            found.add(one)
            pending += [term for term in _operands(one) if _same(term, one)] if _is_addition(one) else []
    return found


def _same(one: fx.Node, other: fx.Node) -> bool:
    return bool(_kind(one) == _kind(other))


def _kind(node: fx.Node) -> Any:
    """Shape and type of a value, its free dimensions by their symbols."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return node
    return value.dtype, tuple(map(str, value.shape))


def _behind(graph: fx.Graph) -> dict[fx.Node, int]:
    """By node: the places of all that it is computed from, as bits."""
    found: dict[fx.Node, int] = {}
    for place, node in enumerate(graph.nodes):
        bits = 1 << place
        for source in node.all_input_nodes:
            bits |= found[source]
        found[node] = bits
    # less itself
    return {node: bits ^ (1 << place) for place, (node, bits) in enumerate(found.items())}


def _names(branches: list[tuple[str, ...]]) -> list[str]:
    """A name for each set of layers: what all of them are below, where no layer of another branch is; else the last layer's."""
    all_layers = dict.fromkeys(layer for layers in branches for layer in layers)
    found: list[str] = []
    for layers in branches:
        paths = [layer.split(".") for layer in layers]
        shared = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        name = ".".join(shared)
        others = all_layers.keys() - set(layers)
        if not name or any(one == name or one.startswith(f"{name}.") for one in others):
            name = layers[-1]
        base, number = name, 1
        while name in found:
            number += 1
            name = f"{base}_{number}"
        found.append(name)
    return found
