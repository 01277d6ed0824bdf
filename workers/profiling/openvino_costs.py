"""What the operations of an OpenVINO model compute and move, see `costs`; FLOPs after the rules of `workers.formats.flops`.

Source: https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from app.errors import SignatureMismatch
from workers.formats.flops import einsum_flops
from workers.openvino_library import openvino
from workers.profiling.costs import Model, Operation, Value
from workers.runtimes.base import Feeds

VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze"))
LOOKS = frozenset(("ShapeOf", "Range"))
TABLES = frozenset(("Gather", "GatherND", "GatherElements", "StridedSlice", "Slice"))
GLUE = frozenset(("Parameter", "Constant", "Result"))
OUTSIDE = frozenset(("Loop", "TensorIterator", "If"))  # bodies of their own, which are not looked into
_FLOATS = frozenset(("f64", "f32", "f16", "bf16", "f8e4m3", "f8e5m2"))


def of_openvino(path: Path, feeds: Feeds) -> Model:
    """The operations of a model in a file that OpenVINO reads, by their friendly names, for these feeds.

    Raises:
        SignatureMismatch: it does not take feeds of these shapes.
    """
    model = openvino.Core().read_model(path)
    shapes = {name: list(value.shape) for name, value in feeds.items()}
    try:
        model.reshape({port: shapes[_known_name(port, shapes)] for port in model.inputs})
    except (RuntimeError, KeyError) as error:
        raise SignatureMismatch(f"the model does not take inputs of the shapes {shapes}") from error
    reader = _Reader()
    for node in model.get_ordered_ops():
        reader.read(node)
    outputs = frozenset(reader.name_of(port.get_node().input_value(0)) for port in model.outputs)
    return Model(reader.operations, reader.values, outputs)


def _known_name(port: Any, shapes: Mapping[str, Sequence[int]]) -> str:
    names: set[str] = {*port.get_names(), port.get_node().get_friendly_name()} & shapes.keys()
    return names.pop()


class _Reader:
    """From nodes to operations, in an order in which they can run; see `onnx_costs` for views and constants."""

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self.values: dict[str, Value] = {}
        self._viewed: dict[str, str] = {}
        self._constants: set[str] = set()

    def read(self, node: Any) -> None:
        """Note what a node reads and writes."""
        name, kind = node.get_friendly_name(), node.get_type_name()
        inputs, outputs = node.input_values(), node.outputs()
        if kind == "Constant" or (kind not in GLUE and inputs and all(map(self._constant, inputs))):
            self._fold(inputs, outputs)
            flops: int | None = 0
            reads: dict[str, float] = {}
            writes: tuple[str, ...] = ()
        elif kind in VIEWS:
            self._viewed[_key(outputs[0])] = self.name_of(inputs[0])
            flops, reads, writes = 0, {}, ()
        else:
            flops = _flops(node, kind)
            reads = {} if kind in LOOKS else self._reads(kind, inputs, outputs)
            writes = tuple(self.name_of(port) for port in outputs)
        if kind not in GLUE:
            self.operations[name] = Operation(name, kind, flops, reads, writes)

    def name_of(self, port: Any) -> str:
        """The name under which a value counts; it is one of `values` then, where its shape is known."""
        name = self._viewed.get(_key(port), _key(port))
        if name not in self.values and (value := _value(port, weight=False)) is not None:
            self.values[name] = value
        return name

    def _constant(self, port: Any) -> bool:
        return _key(port) in self._constants

    def _fold(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        bits = sum(self.values[key].bits for port in inputs if (key := _key(port)) in self.values)
        for port in outputs:
            self._constants.add(_key(port))
            value = _value(port, weight=True)
            if value is not None:
                least = min(value.bits, bits) if inputs else value.bits
                self.values[_key(port)] = Value(value.elements, least, value.floating, weight=True)

    def _reads(self, kind: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for number, port in enumerate(inputs):
            name = self.name_of(port)
            share = 1.0
            if kind in TABLES and number == 0:
                whole, part = self.values.get(name), _value(outputs[0], weight=False)
                share = min(1.0, part.elements / whole.elements) if whole and part and whole.elements else 1.0
            found[name] = max(share, found.get(name, 0.0))
        return found


def _key(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _value(port: Any, *, weight: bool) -> Value | None:
    if port.get_partial_shape().is_dynamic:
        return None
    kind = port.get_element_type()
    elements = prod(port.get_shape())
    return Value(elements, elements * kind.bitwidth, kind.get_type_name() in _FLOATS, weight)


def _flops(node: Any, kind: str) -> int | None:
    if kind in OUTSIDE:
        return None
    rule = _RULES.get(kind)
    if rule is None:
        return 0
    ports = [*node.input_values(), node.output(0)]
    if any(port.get_partial_shape().is_dynamic for port in ports):
        return None
    return rule(node, [list(port.get_shape()) for port in ports[:-1]], list(ports[-1].get_shape()))


Shape = list[int]


def _product(node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    turned = node.get_attributes().get("transpose_a")
    return 2 * prod(output) * inputs[0][-2 if turned else -1]


def _recurrent(weights: int) -> Callable[[Any, Sequence[Shape], Shape], int]:
    """Both matrices for each step of each sequence; `weights` is the first one's input."""
    return lambda node, inputs, output: (
        2 * prod(inputs[0][:2]) * (prod(inputs[weights]) + prod(inputs[weights + 1]))
    )


def _attention(node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """Scores, and their weighted sum of the values."""
    query, key, value = inputs[:3]
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return einsum_flops(node.get_attributes()["equation"], inputs)


_RULES: dict[str, Callable[[Any, Sequence[Shape], Shape], int]] = {
    "Convolution": lambda node, inputs, output: 2 * prod(output) * prod(inputs[1][1:]),
    "GroupConvolution": lambda node, inputs, output: 2 * prod(output) * prod(inputs[1][2:]),
    "ConvolutionBackpropData": lambda node, inputs, output: 2 * prod(inputs[0]) * prod(inputs[1][1:]),
    "GroupConvolutionBackpropData": lambda node, inputs, output: 2 * prod(inputs[0]) * prod(inputs[1][2:]),
    "MatMul": _product,
    "LSTMSequence": _recurrent(4),
    "GRUSequence": _recurrent(3),
    "RNNSequence": _recurrent(3),
    "ScaledDotProductAttention": _attention,
    "Einsum": _einsum,
}
