"""A marked ONNX network (`fake_quant_graph.marked`) as a PyTorch module that trains as if it were in 8 bits, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from workers.onnx_to_torch.convert import converted
from workers.onnx_to_torch.names import free_name
from workers.onnx_to_torch.quantization import fake_quantize
from workers.training.fake_quant import (
    FakeQuantize,
    FoldedNorm,
    FoldedWeight,
    QuantizedWeight,
    Ranges,
)
from workers.training.fake_quant_graph import Fold, Layout, StoredWeight, bounds_of, marked

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Held:
    """Where an initializer is in the network: a name of its state; `turned`: transposed."""

    name: str
    turned: bool


class FakeQuantized(nn.Module):
    """The network in 8 bits: takes inputs by position and returns a tuple of outputs, as the graph it was made of."""

    def __init__(self, inner: fx.GraphModule, ranges: Mapping[str, FakeQuantize]):
        super().__init__()
        self.inner = inner
        self._ranges = dict(ranges)
        self._frozen = False

    def forward(self, *inputs: Tensor) -> Any:
        """See the class."""
        return self.inner(*inputs)

    def freeze(self) -> None:
        """From now on batch norms keep their statistics, and activations their ranges."""
        if not self._frozen:
            self._frozen = True
            for one in self._ranges.values():
                one.frozen = True
            self.train(self.training)

    def train(self, mode: bool = True) -> "FakeQuantized":
        """As of any module, but for batch norms that are frozen."""
        super().train(mode)
        if self._frozen:
            for module in self.modules():
                if isinstance(module, _NORMS):
                    module.eval()
        return self

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The activations' ranges by name of `Layout.activations`."""
        found = {}
        for name, one in self._ranges.items():
            least, most = (end.detach() for end in one.range())
            found[name] = (float(least), float(most))
        return found


def build_network(
    model: onnx.ModelProto, folds: list[Fold], layout: Layout, ranges: Ranges
) -> tuple[FakeQuantized, dict[str, Held]]:
    """The network of an ONNX model, in 8 bits where `layout` says so, in eval mode; and where its initializers are.

    What stands for no initializer as it is (parts of one, say) is not trained.

    Raises:
        UnsupportedOperator: nodes that cannot be converted; `errors` names all of them.
    """
    signs, marks = marked(model, layout)
    inner, parameters = converted(signs)
    made = _Making(inner, model.graph, layout, marks, ranges)
    made.quantize()
    made.fold(folds)
    inner.graph.lint()
    inner.recompile()
    network = FakeQuantized(inner, made.ranges)
    held = made.held(network, parameters)
    names = {one.name for one in held.values()} | {
        name for name, _ in network.named_parameters() if name.endswith(".ends")
    }
    for name, parameter in network.named_parameters():
        if name not in names:
            parameter.requires_grad_(False)
    return network.eval(), held


class _Making:
    """The steps from signs to layers that round."""

    def __init__(
        self,
        inner: fx.GraphModule,
        graph: onnx.GraphProto,
        layout: Layout,
        marks: Mapping[str, str | StoredWeight],
        ranges: Ranges,
    ):
        self._inner = inner
        self._nodes = {node.name: node for node in graph.node}
        self._layout = layout
        self._marks = marks
        self._how = ranges
        self._bounds = bounds_of(graph)
        self._constants: dict[int, str] = {}  # initializers by the identity of the parameter
        self._weights: dict[tuple[str, int], fx.Node] = {}  # rounded, by the edge that reads it
        self._norms: list[tuple[str, nn.Module]] = []  # with the name of their node
        self.ranges: dict[str, FakeQuantize] = {}

    def quantize(self) -> None:
        """Put a layer in place of each sign."""
        targets: dict[str, str] = {}
        for node in list(self._inner.graph.nodes):
            if node.op == "call_module":
                module = self._inner.get_submodule(str(node.target))
                if isinstance(module, _NORMS):
                    self._norms.append((node.meta["onnx_node"], module))
            if node.op != "call_function" or node.target is not fake_quantize:
                continue
            mark = self._marks.get(node.meta["onnx_node"])
            if mark is None:
                continue
            if isinstance(mark, str):
                if mark not in targets:
                    self.ranges[mark] = self._activation(mark)
                    targets[mark] = self._add(f"ranges.{mark}", self.ranges[mark])
                self._call(node, targets[mark], node.args[0])
            else:
                self._own(node.args[0], mark)
                target = self._add(f"rounded.{mark.edge[0]}", QuantizedWeight(mark.grid, mark.axis))
                self._weights[mark.edge] = self._call(node, target, node.args[0])

    def fold(self, folds: list[Fold]) -> None:
        """Let weights that are rounded be rounded as they will be once the batch norms behind them are folded into them."""
        norms = dict(self._norms)
        calls = {
            node.meta.get("onnx_node"): node for node in self._inner.graph.nodes if node.op == "call_module"
        }
        for fold in folds:
            rounded, norm = self._weights.get((fold.product, 1)), norms.get(fold.norm)
            if rounded is None or not isinstance(norm, _NORMS):
                continue
            plain = self._inner.get_submodule(str(rounded.target))
            assert isinstance(plain, QuantizedWeight)
            rounded.target = self._add(f"{rounded.target}_folded", FoldedWeight(norm, plain, fold.axis))
            after = calls[fold.norm]
            after.target = self._add(f"{after.target}_folded", FoldedNorm(norm))
            product = after.args[0]
            assert isinstance(product, fx.Node)
            bias = product.args[2] if len(product.args) > 2 else None
            product.args = (*product.args[:2], None)
            after.args = (product, bias)

    def held(self, network: nn.Module, parameters: Mapping[tuple[str, str], nn.Parameter]) -> dict[str, Held]:
        """Where initializers are: weights that are rounded, weights that are not, statistics of batch norms."""
        names = {id(tensor): name for name, tensor in network.named_parameters()}
        found = {name: Held(names[key], False) for key, name in self._constants.items() if key in names}
        for (name, how), parameter in parameters.items():
            if id(parameter) in names and how in ("", "turned"):
                found[name] = Held(names[id(parameter)], how == "turned")
        buffers = {id(module): path for path, module in network.named_modules()}
        for node, module in self._norms:
            for name, place in (("running_mean", 3), ("running_var", 4)):
                path = buffers[id(module)]
                found[self._nodes[node].input[place]] = Held(f"{path}.{name}", False)
        return found

    def _activation(self, name: str) -> FakeQuantize:
        held = self._layout.activations[name]
        known = [self._bounds[tensor] for tensor in held.edges if tensor in self._bounds]
        least = max((one[0] for one in known), default=-torch.inf)
        most = min((one[1] for one in known), default=torch.inf)
        return FakeQuantize(held.grid, held.least, held.most, self._how, (least, most))

    def _own(self, source: Any, mark: StoredWeight) -> None:
        """Make the constant that is rounded a parameter."""
        assert isinstance(source, fx.Node)
        assert source.op == "get_attr"
        *owners, last = str(source.target).split(".")
        owner = self._inner.get_submodule(".".join(owners))
        held = getattr(owner, last)
        if not isinstance(held, nn.Parameter):
            delattr(owner, last)
            held = nn.Parameter(held.clone())
            owner.register_parameter(last, held)
        name, place = mark.edge
        self._constants[id(held)] = self._nodes[name].input[place]

    def _add(self, name: str, module: nn.Module) -> str:
        taken = [path for path, _ in self._inner.named_modules(remove_duplicate=False) if path]
        taken += [path for path, _ in (*self._inner.named_parameters(), *self._inner.named_buffers())]
        target = free_name(
            name, [path for path in taken if not any(other.startswith(f"{path}.") for other in taken)]
        )
        self._inner.add_submodule(target, module)
        return target

    def _call(self, node: fx.Node, target: str, source: Any) -> fx.Node:
        with self._inner.graph.inserting_before(node):
            called = self._inner.graph.call_module(target, (source,))
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        self._inner.graph.erase_node(node)
        return called


def arrays_of(state: Mapping[str, Tensor], held: Mapping[str, Held]) -> dict[str, np.ndarray]:
    """Initializers by name, from a state of the network."""
    return {
        name: (state[one.name].T if one.turned else state[one.name]).detach().cpu().numpy()
        for name, one in held.items()
    }


def put_back(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with these initializers; their types stay."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.name in arrays:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = np.ascontiguousarray(arrays[tensor.name], dtype=kind)
            tensor.CopyFrom(numpy_helper.from_array(array.reshape(list(tensor.dims)), tensor.name))
    return found
