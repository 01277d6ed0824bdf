"""What of a lifted graph its outputs need, where some additions give one of their operands instead: the rest can go.

Calls that write into a tensor count as well: into an input or a buffer they are effects, into a value of the graph they are
needed with that value.
"""

from collections.abc import Collection, Mapping
from functools import cached_property

import torch
from torch import fx, nn
from torch._ops import OpOverload

aten = torch.ops.aten
Dropped = Mapping[fx.Node, fx.Node]  # from an addition to the operand that it gives
# give what they were given, or a view of it, though their schemas do not say so
_MAYBE_VIEWS = {
    aten.reshape.default, aten.contiguous.default, aten.flatten.using_ints, aten.to.dtype, aten.to.device, aten.to.dtype_layout,
    aten.dropout.default, aten.expand_as.default, aten.view_as.default,
}  # fmt: skip


class Liveness:
    """See the module."""

    def __init__(self, network: fx.GraphModule):
        self._network = network
        self._nodes: list[fx.Node] = list(network.graph.nodes)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._held, self._writers = self._storages()

    def needed(self, dropped: Dropped, *, effects: bool = True) -> set[fx.Node]:
        """What outputs, and effects where they count, are computed from."""
        pending = [node for node in self._nodes if node.op == "output"]
        if effects:
            pending += self.effects
        found: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            if node in found:
                continue
            found.add(node)
            if node in dropped:
                pending.append(dropped[node])
                continue
            pending += node.all_input_nodes
            pending += self._writers.get(node, ())
        return found

    @cached_property
    def effects(self) -> list[fx.Node]:
        """Calls that write into inputs or buffers."""
        lasting = [node for node in self._writers if node.op in ("placeholder", "get_attr")]
        return [writer for node in lasting for writer in self._writers[node]]

    def unneeded(self, dropped: Dropped, *, effects: bool = True) -> set[fx.Node]:
        """What nothing needs any more; checks of such values go with them. Inputs stay."""
        all_ = self.needed({}, effects=effects)
        gone = all_ - self.needed(dropped, effects=effects)
        for node in self._nodes:
            if node not in all_ and any(source in gone for source in node.all_input_nodes):
                gone.add(node)
        return {node for node in gone if node.op != "placeholder"}

    def silenced(self, dropped: Dropped) -> bool:
        """Whether effects are computed from what nothing else needs any more."""
        return any(effect in self.unneeded(dropped, effects=False) for effect in self.effects)

    def rewritten(self, addition: fx.Node, kept: fx.Node) -> bool:
        """Whether something is written, after an addition, into what it gives or into the operand that it is to give instead:
        then that must be a copy."""
        storages = {self._held[addition], self._held[kept]}
        return len(storages) > 1 and any(
            self._place[writer] > self._place[addition]
            for storage in storages
            for writer in self._writers.get(storage, ())
        )

    def _storages(self) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, list[fx.Node]]]:
        """By node: the one that made the memory that its value lies in; by such a node: the calls that write there."""
        held: dict[fx.Node, fx.Node] = {}
        writers: dict[fx.Node, list[fx.Node]] = {}
        for node in self._nodes:
            held[node] = node
            if self._passes_on(node):
                held[node] = held[node.all_input_nodes[0]]
            for source, writes in _aliases(node):
                held[node] = held[source]
                if writes:
                    writers.setdefault(held[source], []).append(node)
        return held, writers

    def _passes_on(self, node: fx.Node) -> bool:
        if not node.all_input_nodes:
            return False
        if node.op == "call_module":
            module = self._network.get_submodule(str(node.target))
            return isinstance(module, nn.modules.dropout._DropoutNd | nn.Identity)
        return node.op == "call_function" and (
            node.target in _MAYBE_VIEWS or getattr(node.target, "__name__", "") == "getitem"
        )


def _aliases(node: fx.Node) -> list[tuple[fx.Node, bool]]:
    """Arguments whose memory a call shares, and whether it writes there."""
    if not isinstance(node.target, OpOverload):
        return []
    found = []
    for number, argument in enumerate(node.target._schema.arguments):
        value = node.args[number] if number < len(node.args) else node.kwargs.get(argument.name)
        if argument.alias_info is not None and isinstance(value, fx.Node):
            found.append((value, argument.alias_info.is_write))
    return found


def without(
    network: fx.GraphModule, dropped: Dropped, gone: Collection[fx.Node], flow: Liveness
) -> fx.GraphModule:
    """The network in which additions give one operand, without the nodes that are gone; it holds layers and weights that it
    still reads, which are the same ones."""
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in network.graph.nodes:
        if node in gone:
            continue
        if node in dropped:
            kept = made[dropped[node]]
            if flow.rewritten(node, dropped[node]):
                kept = graph.call_function(aten.clone.default, (kept,))
                kept.meta = dict(node.meta)
            made[node] = kept
        else:
            made[node] = graph.node_copy(node, lambda source: made[source])
    left = fx.GraphModule(network, graph, class_name="Lifted")
    left.graph.lint()
    return left.eval()
