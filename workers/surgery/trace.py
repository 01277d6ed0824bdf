"""A lifted network, run on numbers and on the ids of channels at once: which channel stands where in every value.

Every element of a value has the id of the channel that it belongs to. Operators that move elements are run on ids as they are;
elsewhere `rules` and `layer_rules` say what meets and what new channels are made. A value is a tensor of ids of its shape.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from workers.surgery.bonds import Bond, Grid, Meeting
from workers.surgery.sets import Sets, broadcast, fixed, slabs

MOST_ELEMENTS = 1 << 22  # of a weight that is no layer's, of which each element gets an id


@dataclass(frozen=True)
class Bound:
    """An axis of a layer's weight: [its size, all that stands there]. A place goes when all of it goes."""

    layer: str
    attribute: str
    axis: int
    ids: Tensor


@dataclass(frozen=True)
class Reading:
    """A layer that has an axis of a weight as its inputs (`in`), its outputs (`out`), or what it scales (`norm`)."""

    layer: str
    attribute: str
    axis: int
    role: str
    ids: Tensor


@dataclass
class Trace:
    """What a run has found, by names that a copy of the network has too.

    `sized` are the calls whose arguments hold sizes: the ids of what they read and of what they give.
    """

    sets: Sets = field(default_factory=Sets)
    bonds: list[Bond] = field(default_factory=list)
    bound: dict[tuple[int, int], Bound] = field(default_factory=dict)  # by the weight's id() and axis
    read: list[Reading] = field(default_factory=list)
    held: dict[str, Tensor] = field(default_factory=dict)  # ids of weights that are no layer's, by name
    makers: dict[str, Tensor] = field(default_factory=dict)  # ids of what each layer makes, by its name
    groups: dict[str, Tensor] = field(default_factory=dict)  # [groups, channels of one], by the layer's name
    normed: dict[str, Tensor] = field(default_factory=dict)  # ids of what layer norms take, by their name
    sized: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # by the node's name
    parts: list[Tensor] = field(default_factory=list)  # of what was split: none may become empty

    def bind(self, layer: str, role: str, attribute: str, held: nn.Module, axis: int, ids: Tensor) -> None:
        """Say what stands on an axis of a weight, [size] or [size, all else]; one that layers share is the same in all."""
        weight = getattr(held, attribute)
        if weight is None:
            return
        table = ids if ids.dim() == 2 else ids[:, None]
        known = self.bound.setdefault((id(weight), axis), Bound(layer, attribute, axis, table))
        if known.ids is not table:
            self.sets.unite_slabs(known.ids, table, 0)
        self.read.append(Reading(layer, attribute, axis, role, table))

    def make(self, layer: str, held: nn.Module, axis: int) -> Tensor:
        """The channels that a layer makes by an axis of its weight, [size]: new ones, or those that a shared weight made before."""
        weight = held.weight
        assert isinstance(weight, Tensor)
        known = self.bound.get((id(weight), axis))
        ids = self.sets.fresh(weight.shape[axis], made=True) if known is None else known.ids[:, 0]
        self.bind(layer, "out", "weight", held, axis, ids)
        self.makers[layer] = ids
        return ids


class Tracer(fx.Interpreter):
    """Runs a graph; `trace` is what it found. `ids` has ids for each node: a tensor, a tuple of them, None for numbers."""

    def __init__(self, network: fx.GraphModule):
        super().__init__(network)
        self.trace = Trace()
        self.ids: dict[fx.Node, Any] = {}
        self.numbers: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """See `Interpreter.run_node`."""
        value = super().run_node(n)
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            self.numbers[n] = value
        self.ids[n] = tree_map_only(Tensor, self.trace.sets.compact, self._find(n, value))
        return value

    def given(self, argument: Any) -> Any:
        """An argument with ids in place of tensors, and numbers as they are."""
        return fx.node.map_arg(
            argument, lambda node: self.numbers[node] if node in self.numbers else self.ids[node]
        )

    def neutral(self, value: Any) -> Any:
        """Ids of a value that has no channels which could go."""
        return tree_map_only(Tensor, lambda tensor: fixed(tensor.shape), value)

    def opaque(self, node: fx.Node, value: Any, why: str = "what it does with channels is not known") -> Any:
        """Fix all that a node reads."""
        for source in node.all_input_nodes:
            for ids in tree_leaves(self.ids[source]):
                if isinstance(ids, Tensor):
                    self.trace.sets.fix(ids, place(node), why)
        return self.neutral(value)

    def grid(self, node: fx.Node, ids: Tensor) -> None:
        """Hold a value that was rearranged to be a grid."""
        if len(self.trace.sets.varying(ids)) > 1:
            self.trace.bonds.append(Grid(ids, place(node)))

    def _find(self, node: fx.Node, value: Any) -> Any:
        from workers.surgery.layer_rules import through_layer
        from workers.surgery.rules import through_call

        if node.op == "placeholder":
            return self.neutral(value)
        if node.op == "get_attr":
            return self._attribute(str(node.target), value)
        if node.op == "call_module":
            return through_layer(self, node, self.fetch_attr(str(node.target)), value)
        if node.op == "output":
            return self.opaque(node, value, "it is an output")
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            return None
        return through_call(self, node, value)

    def _attribute(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if value.numel() > MOST_ELEMENTS:
            return fixed(value.shape)
        if name not in self.trace.held:
            same = next((key for key in self.trace.held if self.fetch_attr(key) is value), None)
            ids = self.trace.held[same] if same else self.trace.sets.fresh(*value.shape, made=False)
            self.trace.held[name] = ids
        return self.trace.held[name]


def place(node: fx.Node) -> str:
    """What a node is called in a report: the layer's name, or the operator with the place in the source."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]).removeprefix("L['self'].") if stack else ""
    name = getattr(getattr(node.target, "_schema", None), "name", node.name).removeprefix("aten::")
    return f"{name} in {path}" if path and path != "L['self']" else str(name)


def meet(trace: Trace, where: str, one: Tensor, other: Tensor) -> Tensor:
    """The ids of an elementwise result of two values, of the shape that they are broadcast to."""
    sets = trace.sets
    rank = max(one.dim(), other.dim())
    one, other = (ids.reshape((1,) * (rank - ids.dim()) + tuple(ids.shape)) for ids in (one, other))
    shape = broadcast(one, other)
    if sets.loose(one) or not sets.varying(one):  # what has channels comes first
        one, other = other, one
    if not sets.varying(other) and all(other.shape[axis] == 1 for axis in sets.varying(one)):
        return (one if bool(one.any()) else other).expand(shape)
    if not _missed(sets, one, other) and not _missed(sets, other, one):
        sets.unite(one.expand(shape), other.expand(shape))
        return one.expand(shape)
    if not (sets.loose(one) or sets.loose(other)):
        for axis in set(sets.varying(one)) & set(sets.varying(other)):
            sets.unite_slabs(one, other, axis)
        if _missed(sets, one, other) and _missed(sets, other, one):
            for ids in (one, other):
                sets.fix(ids, where, "each of its values belongs to two channels")
            return fixed(shape)
        if _missed(sets, other, one):
            one, other = other, one
    trace.bonds.append(Meeting(one, other, where))
    return one.expand(shape)


def _missed(sets: Sets, ids: Tensor, beside: Tensor) -> list[int]:
    """The axes of channels along which another tensor is broadcast."""
    return [axis for axis in sets.varying(ids) if beside.shape[axis] == 1]


def reduced(trace: Trace, ids: Tensor, axes: Iterable[int], *, keep: bool) -> Tensor:
    """The ids of a sum over axes: what differs along them and along others as well becomes one set."""
    over = {axis % ids.dim() for axis in axes}
    varying = set(trace.sets.varying(ids))
    if varying & over and varying - over:
        trace.sets.unite_along(ids, varying & over)
    elif varying & over:
        ids = fixed(ids.shape)
    for axis in over:
        ids = ids.narrow(axis, 0, 1)
    if keep:
        return ids
    return ids.reshape([size for axis, size in enumerate(ids.shape) if axis not in over])


def row(ids: Tensor, axis: int) -> Tensor:
    """The ids along an axis, at the first place of all others: [size]."""
    return slabs(ids, axis)[:, 0]


def lying(ids: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Ids [size] along an axis of a shape, the same everywhere else."""
    sizes = [1] * len(shape)
    sizes[axis] = len(ids)
    return ids.reshape(sizes).expand(tuple(shape))


Rule = Callable[[Tracer, fx.Node, Any], Any]
LayerRule = Callable[[Tracer, fx.Node, nn.Module, Tensor, Any], Any]
