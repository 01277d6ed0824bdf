"""A network that was exported for one batch size, made to take any: what training needs, and most exports to ONNX lack.

An exporter writes sizes as it saw them (`view(x, [1, 512])`). Those that hold the batch are found by running the graph with
another batch: where a tensor has grown, the size at the same place among its elements is the one to leave open. Selections
that number the samples are continued (`numbered.py`), and constants that were written once for each give their first row. The
result is held against the original, sample by sample, before it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from app.errors import InvalidModel
from app.text import first_line, plain
from workers.samples import is_batched
from workers.torch.model import TorchModel, example_inputs, leaves
from workers.training.numbered import continued, numbered
from workers.training.task import STAGE

TIMES = 3  # batches of the original in one of the trial
MOST_NOISE = 1e-6  # noise to signal, in power: 60 dB
HINT = (
    "export the network with a free batch (torch.onnx.export(…, dynamic_shapes=({0: torch.export.Dim('batch')},)), or the same "
    "for torch.export.export), and upload that"
)
aten = torch.ops.aten
_VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
_FILLED = {aten.zeros.default, aten.ones.default, aten.full.default}


def rebatched(model: TorchModel) -> TorchModel:
    """The same network, changed in place, for any number of samples; as it is where its signature says so already.

    Raises:
        InvalidModel: its inputs have no common sample axis, or it does not run with other batches as it does with its own.
    """
    if all(entry["shape"] and not isinstance(entry["shape"][0], int) for entry in model.inputs):
        return model
    inputs: list[Mapping[str, Any]] = list(model.inputs)
    if not is_batched(inputs) or not isinstance(model.module, fx.GraphModule):
        raise _refusal("its inputs have no common first axis that counts samples")
    size = next(entry["shape"][0] for entry in inputs if isinstance(entry["shape"][0], int))
    single = [_apart(example_inputs(_sized(inputs, size), seed), seed * size) for seed in range(TIMES)]
    several = [torch.cat(parts) for parts in zip(*single, strict=True)]
    with torch.no_grad():
        expected = [leaves(model.module(*one)) for one in single]
        try:
            _Rewriting(model.module, size).run(*several)
            model.module.graph.lint()
            model.module.recompile()
            found = leaves(model.module(*several))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise _refusal(plain(first_line(str(error)) or type(error).__name__, 300)) from error
    outputs = []
    for entry, whole, *parts in zip(model.outputs, found, *expected, strict=True):
        if not _same(whole, parts):
            raise _refusal(f"its output {entry['name']!r} is another when samples come together")
        outputs.append(_free(entry))
    return replace(model, inputs=tuple(map(_free, inputs)), outputs=tuple(outputs))


def _sized(inputs: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    return [{**entry, "shape": [size, *entry["shape"][1:]]} for entry in inputs]


def _apart(values: Sequence[Tensor], number: int) -> list[Tensor]:
    """The same, but masks of ones are cut differently for each sample, the first of which has that number: a network that gives
    all samples the mask of the first would else not be found out."""
    return [
        _cut(one, number) if not one.is_floating_point() and bool((one == 1).all()) else one for one in values
    ]


def _cut(mask: Tensor, number: int) -> Tensor:
    if mask.dim() < 2:
        return mask
    length = mask.shape[-1]
    kept = length - (number + torch.arange(len(mask))) % length
    inside = torch.arange(length) < kept.view(-1, *[1] * (mask.dim() - 1))
    return mask * inside.to(mask.dtype) if mask.dtype != torch.bool else mask & inside


def _free(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "shape": ["batch", *entry["shape"][1:]]}


def _same(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    joined = torch.cat([part if part.dim() else part.reshape(1) for part in parts])
    if whole.shape != joined.shape:
        return False
    if not whole.is_floating_point():
        return bool(torch.equal(whole, joined))
    signal, noise = joined.double().square().sum(), (whole.double() - joined.double()).square().sum()
    return bool(noise <= MOST_NOISE * signal)


class _Rewriting(fx.Interpreter):
    """Runs a graph with a larger batch than it was exported with (`size`), and opens the sizes that hold it, as it meets them."""

    def __init__(self, module: fx.GraphModule, size: int):
        super().__init__(module, garbage_collect_values=False)
        # elements of its own axis that lie below a sample, by value; where none is told, samples are outermost on their axis
        self._inner: dict[fx.Node, int] = {}
        self._size = size
        self._first = next(node for node in module.graph.nodes if node.op == "placeholder")
        self._count: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        """Change the node first where it must be."""
        if node.op == "call_function" and node.target in _VIEWS:
            self._open_view(node, 1)
        elif node.op == "call_function" and node.target is aten.unflatten.int:
            self._open_view(node, 2)
        elif node.op == "call_function" and node.target is aten.expand.default:
            self._open_expand(node)
        elif node.op == "call_function" and node.target is aten.index.Tensor:
            self._open_index(node)
        elif node.op == "call_function" and node.target is aten.index_select.default:
            self._open_selection(node)
        elif node.op == "call_function" and node.target in (aten.cat.default, aten.gather.default):
            self._repeat(node)
        elif node.op == "call_function" and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            self._spread(node, node.all_input_nodes)
        elif node.op == "call_module" and isinstance(self.fetch_attr(str(node.target)), nn.RNNBase):
            self._open_states(node)
        self.env[node] = super().run_node(node)
        self._follow(node)
        return self.env[node]

    def _open_view(self, node: fx.Node, at: int) -> None:
        """Leave that size open which stands where the batch does among the elements; one that was open gets its number."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        grown = self._grown(source)
        if grown is None:
            return
        before, sizes = list(source.meta["val"].shape), list(node.meta["val"].shape)
        stride = prod(before[grown + 1 :]) * self._inner.get(source, before[grown] // self._size)
        places = [
            place
            for place, size in enumerate(sizes)
            if (below := prod(sizes[place + 1 :])) <= stride and stride * self._size <= below * size
        ]
        place = next((place for place in places if sizes[place] == self._size), None)
        if place is None:  # it was 1, and lies between two: rows of a matrix product are samples and more
            place = places[0] if len(sizes) == 2 else places[-1]
        self._inner[node] = stride // prod(sizes[place + 1 :])
        if at == 2:  # unflatten: the sizes of one axis
            given = list(node.args[2])  # type: ignore[arg-type]
            axis = int(node.args[1]) % len(before)  # type: ignore[arg-type]
            if not axis <= place < axis + len(given):
                return
            sizes, place = sizes[axis : axis + len(given)], place - axis
        sizes[place] = -1
        node.args = (*node.args[:at], sizes, *node.args[at + 1 :])

    def _open_expand(self, node: fx.Node) -> None:
        source, sizes = node.args[0], list(node.args[1])  # type: ignore[arg-type]
        assert isinstance(source, fx.Node)
        before, now = list(source.meta["val"].shape), list(self.env[source].shape)
        lead = len(sizes) - len(now)
        for axis, (old, new) in enumerate(zip(before, now, strict=True)):
            if old != new:
                sizes[lead + axis] = -1
        first = before[0] if before and not lead else 1
        if sizes[0] == self._size > 1 and first == 1:
            sizes[0] = self._counted()
        node.args = (source, sizes, *node.args[2:])

    def _open_index(self, node: fx.Node) -> None:
        source, indices = node.args[0], list(node.args[1])  # type: ignore[arg-type]
        assert isinstance(source, fx.Node)
        grown = self._grown(source)
        if grown is None or grown >= len(indices):
            return
        indices[grown] = self._continued(node, source, indices[grown])
        node.args = (source, indices)
        self._spread(node, [one for one in indices if isinstance(one, fx.Node)])

    def _open_selection(self, node: fx.Node) -> None:
        source, axis, index = node.args
        assert isinstance(source, fx.Node)
        if self._grown(source) == int(axis) % self.env[source].dim():  # type: ignore[arg-type]
            node.args = (source, axis, self._continued(node, source, index))

    def _continued(self, node: fx.Node, source: fx.Node, index: Any) -> Any:
        """An index into the samples of `source`, for all of them where it lists those of one batch."""
        if not isinstance(index, fx.Node) or self._grown(index) is not None:
            return index
        value, axis = self.env[index], self._grown(source)
        below = self._inner.get(source, source.meta["val"].shape[axis] // self._size)
        if value.is_floating_point() or value.dtype == torch.bool:
            return index
        if (found := numbered(value, self._size, below)) is None:
            return index
        count = self._counted()
        with node.graph.inserting_before(node):
            made = continued(node.graph, index, value.dim(), found, below, count)
        for one in made:
            self.env[one] = super().run_node(one)
        self._inner[node] = found.each
        return made[-1]

    def _spread(self, node: fx.Node, operands: Sequence[fx.Node], apart_from: int | None = None) -> None:
        """Where a constant was written once for each sample, beside values of the batch, its first row is enough for all: as it is
        where sizes of 1 are stretched, else, with `apart_from` an axis that may differ, repeated."""
        if self._size == 1 and apart_from is None:
            return
        values = {one: self.env[one] for one in operands if isinstance(self.env[one], Tensor)}
        rank = max((value.dim() for value in values.values()), default=0)
        for axis in range(-rank, 0):
            sizes = {one: value.shape[axis] for one, value in values.items() if value.dim() >= -axis}
            if max(sizes.values()) <= self._size or axis == apart_from:
                continue
            for operand in [one for one, size in sizes.items() if size == self._size]:
                first = values[operand].narrow(axis, 0, 1)
                if torch.equal(values[operand], first.expand_as(values[operand])):
                    self._put_row(node, operand, axis, repeated=apart_from is not None)

    def _repeat(self, node: fx.Node) -> None:
        operands = node.all_input_nodes
        axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        self._spread(node, operands, axis if axis < 0 else axis - self.env[operands[0]].dim())

    def _put_row(self, node: fx.Node, operand: fx.Node, axis: int, *, repeated: bool) -> None:
        count = self._counted()
        rank = self.env[operand].dim()
        with node.graph.inserting_before(node):
            made = [node.graph.call_function(aten.slice.Tensor, (operand, axis, 0, 1))]
            if repeated:
                sizes = [count if place == axis else -1 for place in range(-rank, 0)]
                made.append(node.graph.call_function(aten.expand.default, (made[0], sizes)))
        for one in made:
            self.env[one] = super().run_node(one)
        node.replace_input_with(operand, made[-1])

    def _grown(self, node: fx.Node) -> int | None:
        """The axis of a value that is longer than it was when the network was exported."""
        before, now = node.meta["val"].shape, self.env[node].shape
        return next((axis for axis, size in enumerate(now) if size != before[axis]), None)

    def _follow(self, node: fx.Node) -> None:
        """Where on its axis the batch lies, from what a value was made of."""
        if node in self._inner or node.meta.get("val") is None or not isinstance(self.env[node], Tensor):
            return
        grown = self._grown(node)
        for source in node.all_input_nodes if grown is not None else ():
            axis = (
                self._grown(source) if source in self._inner and source.meta.get("val") is not None else None
            )
            if axis is not None and source.meta["val"].shape[axis] == node.meta["val"].shape[grown]:
                self._inner[node] = self._inner[source]
                return

    def _open_states(self, node: fx.Node) -> None:
        """First states that are filled with a number, [layers, batch, size], get the batch's size."""
        for state in node.all_input_nodes:
            if state.target not in _FILLED:
                continue
            sizes = list(state.args[0])  # type: ignore[arg-type]
            sizes[1] = self._counted()
            state.args = (sizes, *state.args[1:])
            self.env[state] = self.env[state][:, :1].expand(-1, self._rows(), -1).contiguous()

    def _counted(self) -> fx.Node:
        """A node that gives the number of samples."""
        if self._count is None:
            graph = self._first.graph
            with graph.inserting_after([node for node in graph.nodes if node.op == "placeholder"][-1]):
                self._count = graph.call_function(aten.sym_size.int, (self._first, 0))
            self.env[self._count] = self._rows()
        return self._count

    def _rows(self) -> int:
        return int(self.env[self._first].shape[0])


def _refusal(why: str) -> InvalidModel:
    return InvalidModel(
        f"the network was exported for one batch size, and does not train with another: {why}",
        stage=STAGE,
        hint=HINT,
    )
