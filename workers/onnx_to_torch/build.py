"""The walk over a graph: each node becomes a layer, a constant, or a call of its operator's function."""

import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from app.errors import UnsupportedOperator
from workers.onnx_prepare import read_by
from workers.onnx_to_torch.model import Constant, Model, Node, constant_node
from workers.onnx_to_torch.names import assembled, free_name
from workers.onnx_to_torch.registry import LAYERS, OPERATORS, Operator
from workers.onnx_to_torch.types import tensor_from
from workers.onnx_to_torch.values import Numbers, known, numbers, sizes, tensor_of

STAGE = "converting"
MOST_FOLDED = 1 << 20  # elements of a constant that are computed now; a larger one may grow from a small one
_STRUCTURE = frozenset(
    ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Slice", "Split", "Cast")
)  # what leaves a weight a weight


def as_tensor(value: Any) -> Any:
    """What leaves the module is a tensor, or a list of them; sizes lie on the host, as ONNX Runtime has them."""
    return [as_tensor(one) for one in value] if isinstance(value, list) else tensor_of(value)


class Builder:
    """One graph, main or inner, on its way into a module."""

    def __init__(
        self,
        proto: onnx.GraphProto,
        model: Model,
        outer: "Builder | None" = None,
        captured: Sequence[str] = (),
    ):
        self.model = model
        self.graph = fx.Graph()
        self._proto = proto
        self._outer = outer
        self._scope: str = f"{outer._scope}{proto.name}/" if outer else ""
        self._values: dict[str, fx.Node] = {}
        self._constants: dict[str, Constant] = {}
        self._parts: dict[str, nn.Module | Tensor] = {}
        self._emitted: dict[tuple[str, ...], fx.Node] = {}
        self._done: set[str] = set()
        self._readers: dict[str, list[Node]] = {}
        self._current: Node | None = None
        self._nodes = [(entry, model.node(entry, number)) for number, entry in enumerate(proto.node)]
        for _, node in self._nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        for tensor in proto.initializer:
            self._constants[tensor.name] = model.constant(tensor_from(tensor), tensor.name, self._scope)
        for entry, node in self._nodes:
            if node.kind == "Constant":
                name = node.outputs[0]
                self._constants[name] = model.constant(constant_node(entry), name, self._scope)
        self.inputs = [value.name for value in proto.input if outer or value.name not in self._constants]
        taken: set[str] = {"self"}
        for name in (*self.inputs, *captured):
            self._values[name] = self.graph.placeholder(_identifier(name, taken))
        self.output_names = [value.name for value in proto.output]

    def run(self) -> fx.GraphModule:
        """Walk, and put the module together."""
        for _, node in self._nodes:
            self._current = node
            if not self._done.issuperset(name for name in node.outputs if name) or not node.outputs:
                self._convert(node)
        self._current = None
        found = [self.value(name) for name in self.output_names]
        if not self._outer:
            found = [self.call(as_tensor, value) if value.op == "call_function" else value for value in found]
        self.graph.output(tuple(found))
        self.graph.eliminate_dead_code(_has_to_stay)
        module = fx.GraphModule(assembled(self._parts), self.graph, class_name="Converted")
        module.graph.lint()
        return module

    # what builders of layers ask

    def constant(self, name: str) -> Constant | None:
        """A value that is a constant; else None."""
        if not name or name in self._values:
            return None
        if name in self._constants:
            return self._constants[name]
        return self._outer.constant(name) if self._outer else None

    def parameter(
        self, name: str, tag: str = "", change: Callable[[Tensor], Tensor] | None = None
    ) -> nn.Parameter | None:
        """A floating constant as a weight, `change`d; the same one for the same constant and tag. None: it is none.

        Exporters store equal constants once. So one number repeated, as in biases that nobody trained yet, is a weight of its own
        for each node that reads it: what was trained, and is equal all the same, was one.
        """
        constant = self.constant(name)
        if constant is None or not constant.value.dtype.is_floating_point:
            return None
        reader = ""
        if self._current is not None and not self.alone(name) and _repeated(constant.tensor):
            reader = f" of {self._current.outputs[0]}"
        key = (f"{constant.key}{reader}", tag)
        if key not in self.model.parameters:
            tensor = change(constant.tensor) if change else constant.tensor
            self.model.parameters[key] = nn.Parameter(tensor.clone() if reader else tensor.contiguous())
        return self.model.parameters[key]

    def new_parameter(self, constant: Constant, value: Tensor) -> nn.Parameter:
        """A weight made of a constant that is none itself; one a constant."""
        return self.model.parameters.setdefault((constant.key, "made"), nn.Parameter(value.contiguous()))

    def weights(self, *names: str) -> list[nn.Parameter] | None:
        """All of these as weights as they are, or None where one is not constant."""
        found = [self.parameter(name) for name in names]
        return None if any(one is None for one in found) else found  # type: ignore[return-value]

    def alone(self, name: str) -> bool:
        """Whether nothing else reads a value."""
        return self.model.reads(name) == 1

    def only_reader(self, name: str) -> Node | None:
        """The node of this graph that alone reads a value."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and self.model.reads(name) == 1 else None

    def producer(self, name: str) -> Node | None:
        """The node of this graph that computes a value."""
        return next((node for _, node in self._nodes if name in node.outputs), None) if name else None

    def rank(self, name: str) -> int | None:
        """How many dimensions a value has, where that is known."""
        constant = self.constant(name)
        return constant.tensor.ndim if constant else self.model.rank(name)

    def plain(self, name: str) -> Any:
        """The numbers of a constant; None where it is none."""
        constant = self.constant(name)
        return sizes(constant.value) if constant else None

    def like(self) -> fx.Node:
        """An empty tensor that lies where the module lies."""
        return self._attribute("device_anchor", "device_anchor", lambda: torch.empty(0))

    def value(self, name: str) -> fx.Node:
        """A value of the graph, for calls."""
        if name in self._values:
            return self._values[name]
        constant = self.constant(name)
        if constant is None:
            raise KeyError(name)
        found = constant.value
        if isinstance(found, Numbers):
            return self.call(numbers, found.values, found.rank, found.dtype)
        if constant.weight:
            return self.weight_value(self.parameter(name), name)  # type: ignore[arg-type]
        return self._attribute(constant.key, name, lambda: found)

    def weight_value(self, parameter: nn.Parameter, name: str) -> fx.Node:
        """A parameter, for calls."""
        return self._attribute(f"weight {id(parameter)}", name, lambda: parameter)

    def call(self, function: Callable[..., Any], *inputs: Any, **attributes: Any) -> fx.Node:
        """A call of a function, which must be one of a module's own."""
        return self._noted(self.graph.call_function(function, inputs, attributes))

    def layer(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        """A call of a layer, which gets a name like this."""
        target = free_name(name, self._parts)
        self._parts[target] = module
        return self._noted(self.graph.call_module(target, inputs))

    def operate(self, node: Node, *inputs: fx.Node | None, **changed: Any) -> fx.Node:
        """A call of the function of a node's operator."""
        spec = OPERATORS[node.kind]
        given = list(inputs) if inputs else [self._given(spec, i, name) for i, name in enumerate(node.inputs)]
        while given and given[-1] is None:
            given.pop()
        attributes = {**node.attributes, **changed}
        if "opset" in spec.special:
            attributes["opset"] = node.opset
        if "outputs" in spec.special:
            attributes["outputs"] = node.read_outputs
        if "like" in spec.special:
            attributes["like"] = self.like()
        return self.call(spec.function, *given, **attributes)

    def finish(self, node: Node, value: fx.Node) -> None:
        """Say that a node's output is this: it was done together with another one."""
        self._values[node.outputs[0]] = value
        self._done.add(node.outputs[0])

    def inner(self, *protos: onnx.GraphProto) -> tuple[list[fx.GraphModule], list[str]]:
        """Modules of a node's graphs, and the names of what they read of this one, which they take after their own inputs."""
        captured: dict[str, None] = {}
        for proto in protos:
            written = {value.name for value in proto.input} | {tensor.name for tensor in proto.initializer}
            for name in sorted(_reads(proto)):
                if name and name not in written and self.constant(name) is None and name in self._values:
                    captured[name] = None
        names = list(captured)
        return [Builder(proto, self.model, self, names).run() for proto in protos], names

    # the walk

    def _convert(self, node: Node) -> None:
        if node.kind == "Constant":
            return
        if node.kind == "Identity":
            self._rename(node)
            return
        if self._fold(node):
            return
        made = LAYERS[node.kind](node, self) if node.kind in LAYERS else None
        if made is None and node.kind not in OPERATORS:
            raise UnsupportedOperator(
                f"{node.kind} with weights or settings that no layer takes",
                stage=STAGE,
                node=node.name,
                hint="simplify the model first, so that its constants are folded",
            )
        if made is None:
            made = self.operate(node)
            if not OPERATORS[node.kind].several:
                made = [made]
        self._keep(node, made)

    def _keep(self, node: Node, made: Any) -> None:
        for index, name in enumerate(node.outputs):
            if name and name not in self._done:
                if isinstance(made, list):
                    self._values[name] = made[index]
                else:
                    self._values[name] = self._noted(self.graph.call_function(_item, (made, index)))

    def _rename(self, node: Node) -> None:
        constant = self.constant(node.inputs[0])
        if constant is not None:
            self._constants[node.outputs[0]] = constant
        else:
            self._values[node.outputs[0]] = self.value(node.inputs[0])

    def _fold(self, node: Node) -> bool:
        """Compute what constants alone make. A weight stays a weight only where it is moved, and nothing else reads it."""
        spec = OPERATORS.get(node.kind)
        given = [self.constant(name) if name else None for name in node.inputs]
        if (
            spec is None
            or not spec.folds
            or any(n and c is None for n, c in zip(node.inputs, given, strict=True))
        ):
            return False
        weights = [(n, c) for n, c in zip(node.inputs, given, strict=True) if c is not None and c.weight]
        if weights and (node.kind not in _STRUCTURE or not all(self._movable(name) for name, _ in weights)):
            return False
        found = self._computed(spec, node, [c.value if c else None for c in given])
        size = sum(value.numel() for value in found if isinstance(value, Tensor))
        if size > MOST_FOLDED + sum(c.tensor.numel() for c in given if c):
            return False
        made = self._expression(node, given) if weights else ""
        for index, (name, value) in enumerate(zip(node.outputs, found, strict=False)):
            if name:
                key = f"{made}[{index}]" if weights else f"{self._scope}{name}"
                value = known(value) if isinstance(value, Tensor) else value
                self._constants[name] = Constant(value, bool(weights), key)
        return True

    def _expression(self, node: Node, given: Sequence[Constant | None]) -> str:
        """The same for nodes that make the same of the same weights."""
        parts = [str(c.key if c.weight else sizes(c.value)) if c else "" for c in given]
        return f"{node.kind}{sorted(node.attributes.items())}({', '.join(parts)})"

    def _movable(self, name: str) -> bool:
        """Whether a weight may be stored as a node leaves it: the node alone reads it, or slices alone do.

        Equal slices stay one parameter (`_expression`); of others that overlap, each trains what it took.
        """
        if self.alone(name):
            return True
        if self.model.readers(name) != {"Slice"}:
            return False
        indices = [part for node in self._readers.get(name, []) for part in node.inputs[1:] if part]
        return all(self.constant(part) is not None for part in indices)

    def _computed(self, spec: Operator, node: Node, given: list[Any]) -> Sequence[Any]:
        special = {"opset": node.opset, "outputs": node.read_outputs, "like": torch.empty(0)}
        extra = {key: value for key, value in special.items() if key in spec.special}
        with torch.no_grad():
            found = spec.function(*given, **node.attributes, **extra)
        return found if spec.several else (found,)

    def _given(self, spec: Operator, index: int, name: str) -> Any:
        if not name:
            return None
        if spec.kind(index) == "plain" and (found := self.plain(name)) is not None:
            return found
        return self.value(name)

    def _attribute(self, key: str, name: str, make: Callable[[], Tensor]) -> fx.Node:
        if (key,) not in self._emitted:
            target = free_name(name, self._parts)
            self._parts[target] = make()
            first = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
            with self.graph.inserting_before(first) if first else self.graph.inserting_after():
                self._emitted[(key,)] = self.graph.get_attr(target)
        return self._emitted[(key,)]

    def _noted(self, node: fx.Node) -> fx.Node:
        if self._current is not None:
            node.meta["onnx_node"] = self._current.name
        return node


def _repeated(tensor: Tensor) -> bool:
    """Whether all elements are one number."""
    return bool((tensor == tensor.flatten()[0]).all())


def _has_to_stay(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def _item(values: Any, index: int) -> Any:
    """One of an operator's outputs."""
    return values[index]


def _reads(proto: onnx.GraphProto) -> set[str]:
    names = {value.name for value in proto.output}
    for node in proto.node:
        names |= read_by(node)
    return names


def _identifier(name: str, taken: set[str]) -> str:
    """An argument's name, which no other one has."""
    base = re.sub(r"\W", "_", name)
    base = base if base.isidentifier() and not keyword.iskeyword(base) else f"_{base}"
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    taken.add(found)
    return found
