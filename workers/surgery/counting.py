"""Parameters and floating point operations of each layer of a lifted network, from the shapes that run through its graph.

The convention is that of `workers.formats.flops`: a multiply and an add are two, for convolutions, matrix products, attention
and recurrent cells. So the sum is what the exported ONNX counts. Free dimensions are 1, as there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from app.errors import InvalidModel
from app.text import first_line, plain
from workers.formats.flops import einsum_flops
from workers.torch.exporting import LENGTHS
from workers.torch.facts import operator
from workers.torch.model import Entry, example_inputs, free_dimensions
from workers.torch.recurrent import recurrent_whole

STAGE = "counting"
WEIGHT = "weight"  # the kind of a parameter that the graph reads itself
NEEDS_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
aten = torch.ops.aten
Value = Any  # what a node gives: a tensor, a number, or a tree of them


@dataclass(frozen=True)
class LayerCount:
    """A layer, a call that computes, or a parameter that the graph reads itself; what has neither weights nor FLOPs is none.

    `kind` is the layer's class (`Conv2d`), the operator (`matmul`), or `weight`. A layer that is called twice counts once, with
    the FLOPs of both; a weight of two layers is the first one's. `output` is the shape of its (first) output without the batch.
    """

    name: str
    kind: str
    parameters: int
    flops: int
    output: tuple[int, ...]


def layers(network: fx.GraphModule, inputs: Sequence[Entry]) -> list[LayerCount]:
    """The layers of a lifted network in the order of its graph, for one sample. `inputs` is its signature (`TorchModel.inputs`).

    Free dimensions are 1; where the network does not run with that, those behind the first are as long as it needs.

    Raises:
        InvalidModel: it does not run on inputs that fit the signature.
    """
    failed: Exception | None = None
    for length in (1, *LENGTHS):
        chosen = {
            name: 1 if any(axis == 0 for _, axis in places) else length
            for name, places in free_dimensions(inputs).items()
        }
        try:
            return counted(network, example_inputs(inputs, dims=chosen))
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            AssertionError,
            NotImplementedError,
        ) as error:
            failed = failed or error
        if all(axis == 0 for places in free_dimensions(inputs).values() for _, axis in places):
            break
    raise InvalidModel(
        "the network does not run on inputs that fit its signature: "
        f"{plain(first_line(str(failed)) or type(failed).__name__, 300)}",
        stage=STAGE,
        hint="upload it with numbers for the dimensions that it fixes",
    ) from failed


def totals(counts: Sequence[LayerCount]) -> tuple[int, int]:
    """Parameters and FLOPs of all layers."""
    return sum(one.parameters for one in counts), sum(one.flops for one in counts)


def counted(network: fx.GraphModule, tensors: Sequence[torch.Tensor]) -> list[LayerCount]:
    """The layers of a lifted network for these inputs.

    By shapes alone where they suffice; a graph whose shapes hang on values is computed."""
    counter = _Counter(network, {})
    try:
        with shapes_only() as fake:
            counter.run(*(fake.from_tensor(tensor) for tensor in tensors))
    except NEEDS_VALUES:
        counter = _Counter(network, {})
        with torch.no_grad():
            counter.run(*tensors)
    return list(counter.found.values())


@contextmanager
def shapes_only() -> Iterator[FakeTensorMode]:
    """In the block tensors have shapes and no values: nothing is computed, and no memory is taken."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(recurrent_whole())
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


class _Counter(fx.Interpreter):
    """Runs a graph and counts; `found` holds the layers by name, for subgraphs (`cond`) below the name of theirs."""

    def __init__(
        self,
        network: fx.GraphModule,
        found: dict[str, LayerCount],
        prefix: str = "",
        seen: set[int] | None = None,
    ):
        super().__init__(network)
        self.found = found
        self._prefix = prefix
        self._seen: set[int] = set() if seen is None else seen

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Value:
        """Count a parameter that is no layer's."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, nn.Parameter):
            self._note(target, WEIGHT, [value], 0, tuple(value.shape))
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Value:
        """Count a layer."""
        module = self.fetch_attr(target)
        result = super().call_module(target, args, kwargs)
        rule = next((rule for kind, rule in _LAYERS if isinstance(module, kind)), None)
        flops = rule(result, args[0], *_weights_of(module)) if rule else 0
        self._note(
            target, type(module).__name__, list(module.parameters()), flops, _sample_shape(result, module)
        )
        return result

    def run_node(self, n: fx.Node) -> Value:
        """Count a call of an operator, by the name of its node."""
        if n.op != "call_function":
            return super().run_node(n)
        if n.target is torch.ops.higher_order.cond:
            return self._branches(n)
        result = super().run_node(n)
        if (rule := _CALLS.get(n.target)) is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            flops = rule(result, *args, **kwargs)
            self._note(n.name, operator(n), [], flops, _sample_shape(result))
        return result

    def _branches(self, node: fx.Node) -> Value:
        """Every branch counts once, whichever the condition takes."""
        _, *branches, operands = self.fetch_args_kwargs_from_env(node)[0]
        results = [
            _Counter(branch, self.found, f"{self._prefix}{source.target}.", self._seen).run(*operands)
            for branch, source in zip(branches, node.args[1:3], strict=True)
            if isinstance(source, fx.Node)
        ]
        return results[0]

    def _note(
        self, name: str, kind: str, weights: list[nn.Parameter], flops: int, output: tuple[int, ...]
    ) -> None:
        own = [weight for weight in weights if id(weight) not in self._seen]
        self._seen.update(map(id, own))
        parameters = sum(weight.numel() for weight in own)
        name = self._prefix + name
        before = self.found.get(name)
        if before is not None:
            parameters, flops, output = before.parameters + parameters, before.flops + flops, before.output
        if weights or flops:
            self.found[name] = LayerCount(name, kind, parameters, flops, output)


def _sample_shape(result: Value, module: nn.Module | None = None) -> tuple[int, ...]:
    first = result[0] if isinstance(result, tuple | list) and result else result
    shape = tuple(first.shape) if isinstance(first, torch.Tensor) else ()
    if isinstance(module, nn.RNNBase) and not module.batch_first:
        return (*shape[:1], *shape[2:])
    return shape[1:]


def _weights_of(module: nn.Module) -> tuple[Any, ...]:
    """What the rule of a layer's operator takes behind the values."""
    if isinstance(module, nn.RNNBase):
        return None, list(module.parameters())
    return (getattr(module, "weight", None),)


def _convolution(
    result: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, *rest: Any, **more: Any
) -> int:
    """Each output value is one product over the kernel and the input channels of its group."""
    return 2 * result.numel() * prod(weight.shape[1:])


def _transposed(
    result: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, *rest: Any, **more: Any
) -> int:
    """Each input value is spread by the kernel over the output channels of its group."""
    return 2 * values.numel() * prod(weight.shape[1:])


def _either_convolution(
    result: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, *rest: Any,
) -> int:  # fmt: skip
    return (_transposed if transposed else _convolution)(result, values, weight)


def _product(result: torch.Tensor, first: torch.Tensor, *rest: Any, **more: Any) -> int:
    """Each output value sums over the first input's last axis."""
    return 2 * result.numel() * int(first.shape[-1])


def _added_product(result: torch.Tensor, added: Any, first: torch.Tensor, *rest: Any, **more: Any) -> int:
    return _product(result, first)


def _einsum(result: torch.Tensor, equation: str, operands: Sequence[torch.Tensor], **more: Any) -> int:
    return einsum_flops(equation, [operand.shape for operand in operands])


def _attention(
    result: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
) -> int:
    """Scores (length × keys × width), and their weighted sum of the values."""
    scores = prod(query.shape[:-1]) * int(key.shape[-2])
    return 2 * scores * (int(query.shape[-1]) + int(value.shape[-1]))


def _recurrent(
    result: Value, values: torch.Tensor, states: Any, weights: Sequence[torch.Tensor], *rest: Any
) -> int:
    """Every weight matrix (all gates, layers and directions) once for each step of each sequence."""
    return 2 * prod(values.shape[:2]) * sum(weight.numel() for weight in weights if weight.dim() == 2)


_LAYERS: tuple[tuple[type[nn.Module], Callable[..., int]], ...] = (
    (nn.modules.conv._ConvTransposeNd, _transposed),
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _product),
    (nn.RNNBase, _recurrent),
)
_CALLS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys(
        (
            aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default,
            aten.linear.default,
        ),
        _product,
    ),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default, aten.addmv.default), _added_product),
    **dict.fromkeys(
        (
            aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default,
            aten.conv3d.padding,
        ),
        _convolution,
    ),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _transposed
    ),
    aten.convolution.default: _either_convolution,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent),
}  # fmt: skip
