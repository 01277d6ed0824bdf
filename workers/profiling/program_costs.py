"""What the layers and calls of an exported program compute and move, see `costs`; FLOPs are those of `surgery.counting`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from workers.profiling.costs import Model, Operation, Value
from workers.runtimes.base import Feeds
from workers.surgery.counting import NEEDS_VALUES, counted, shapes_only
from workers.torch.facts import operator
from workers.torch.lift import lift
from workers.torch.model import to_tensor
from workers.torch.program import Program, check_feeds

Storage = int


def of_program(program: Program, feeds: Feeds) -> Model:
    """The operations of a program for these feeds; names are those of its lifted layers, and of nodes between them.

    Raises:
        SignatureMismatch: the feeds do not fit the program.
        UnsupportedOperator: see `lift`.
    """
    check_feeds(program.inputs, feeds)
    tensors = [to_tensor(feeds[entry["name"]]) for entry in program.inputs]
    with shapes_only():
        network = lift(program.program)
        assert isinstance(network, fx.GraphModule)
    flops = {one.name: one.flops for one in counted(network, tensors)}
    try:
        with shapes_only() as fake:
            return _read(network, flops, [fake.from_tensor(tensor) for tensor in tensors])
    except NEEDS_VALUES:
        with torch.no_grad():
            return _read(network, flops, tensors)


def _read(network: fx.GraphModule, flops: Mapping[str, int], tensors: Sequence[torch.Tensor]) -> Model:
    noted = _Noted(flops)
    reader = _Reader(network, noted)
    outputs = frozenset(reader.name_of(one) for one in _tensors(reader.run(*tensors)))
    return Model(noted.operations, noted.values, outputs)


@dataclass
class _Noted:
    """What was read of a graph so far. A value is a storage: views of it go by its name."""

    flops: Mapping[str, int]
    operations: dict[str, Operation] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    names: dict[Storage, str] = field(default_factory=dict)
    held: list[torch.Tensor] = field(default_factory=list)  # a storage's number is another's once it is gone


class _Reader(fx.Interpreter):
    """Runs a graph and notes what each call reads and writes; calls of subgraphs (`cond`) below the name of theirs."""

    def __init__(self, network: fx.GraphModule, noted: _Noted, prefix: str = ""):
        super().__init__(network)
        self._noted = noted
        self._prefix = prefix

    def run_node(self, n: fx.Node) -> Any:
        """Run a call, and note it."""
        if n.op not in ("call_module", "call_function"):
            return super().run_node(n)
        if n.target is torch.ops.higher_order.cond:
            return self._branches(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        inputs = list(_tensors((args, kwargs)))
        weights = list(layer.parameters()) if isinstance(layer, nn.Module) else []
        name = str(n.target) if layer is not None else n.name
        kind = type(layer).__name__ if layer is not None else operator(n)
        self._note(name, kind, inputs, weights, list(_tensors(result)))
        return result

    def _branches(self, node: fx.Node) -> Any:
        _, *branches, operands = self.fetch_args_kwargs_from_env(node)[0]
        results = [
            _Reader(branch, self._noted, f"{self._prefix}{source.target}.").run(*operands)
            for branch, source in zip(branches, node.args[1:3], strict=True)
            if isinstance(source, fx.Node)
        ]
        return results[0]

    def name_of(self, tensor: torch.Tensor, weight: bool = False) -> str:
        """The name of the value that holds a tensor; it is one of `values` then."""
        storage = tensor.untyped_storage()
        names = self._noted.names
        if storage._cdata not in names:
            self._noted.held.append(tensor)
            names[storage._cdata] = name = f"value_{len(names)}"
            elements, floating = storage.nbytes() // tensor.element_size(), tensor.is_floating_point()
            self._noted.values[name] = Value(elements, 8 * storage.nbytes(), floating, weight)
        return names[storage._cdata]

    def _note(
        self,
        name: str,
        kind: str,
        inputs: Sequence[torch.Tensor],
        weights: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        reads: dict[str, float] = {}
        for tensor in weights:
            reads[self.name_of(tensor, weight=True)] = 1.0
        for tensor in inputs:
            value = self.name_of(tensor, weight=isinstance(tensor, nn.Parameter))
            reads[value] = max(self._share(tensor, value), reads.get(value, 0.0))
        if "embedding" in kind.lower() and outputs:
            for tensor in (*weights, *inputs):
                if tensor.is_floating_point():
                    reads[self.name_of(tensor)] = min(1.0, outputs[0].numel() / max(tensor.numel(), 1))
        writes = [value for tensor in outputs if (value := self.name_of(tensor)) not in reads]
        if outputs and not writes:  # views move nothing
            reads = {}
        name = self._prefix + name
        if (before := self._noted.operations.get(name)) is not None:
            reads, writes = {**before.reads, **reads}, [*before.writes, *writes]
        flops = self._noted.flops.get(name, 0)
        inside = bool(self._prefix)
        self._noted.operations[name] = Operation(name, kind, flops, reads, tuple(writes), inside)

    def _share(self, tensor: torch.Tensor, value: str) -> float:
        whole = self._noted.values[value].bits
        return min(1.0, 8 * tensor.nbytes / whole) if whole else 1.0


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    yield from (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
