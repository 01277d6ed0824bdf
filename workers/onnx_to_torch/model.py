"""What the walk over a graph needs to know of the whole model: operators' version, ranks, how often a value is read."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from workers.onnx_errors import ONNX_ERRORS
from workers.onnx_files import graphs, opset_of
from workers.onnx_prepare import outline
from workers.onnx_to_torch.registry import key_of
from workers.onnx_to_torch.types import TYPES, tensor_from
from workers.onnx_to_torch.values import Value, known, tensor_of

_HIDING = -1e4  # a mask's constant is this or less where something is hidden
_NO_GRADIENT = frozenset(
    (
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "ArgMax", "ArgMin", "Shape", "Size"),
        *(
            "NonZero",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "IsNaN",
            "IsInf",
            "OneHot",
            "Range",
            "Resize",
            "Upsample",
        ),
        *("QuantizeLinear", "DequantizeLinear"),
    )
)  # nothing flows back through what these read


@dataclass(frozen=True)
class Node:
    """A node of the graph, its attributes as Python values."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def input(self, index: int) -> str:
        """An input's name; the empty one where there is none."""
        return self.inputs[index] if index < len(self.inputs) else ""

    @property
    def read_outputs(self) -> int:
        """How many outputs there are, without empty ones at the end."""
        return max((place + 1 for place, name in enumerate(self.outputs) if name), default=0)


@dataclass(frozen=True)
class Constant:
    """A constant; `weight`: it is trained. Two names of one constant have one `key`."""

    value: Value
    weight: bool
    key: str

    @property
    def tensor(self) -> Tensor:
        return tensor_of(self.value)  # type: ignore[no-any-return]


class Model:
    """See the module."""

    def __init__(self, proto: onnx.ModelProto):
        self.opset = opset_of(proto)
        self.parameters: dict[tuple[str, str], nn.Parameter] = {}
        self.renamed = _renamed(proto)
        self._ranks = _ranks(proto)
        self._reads: Counter[str] = Counter()
        self._readers: dict[str, set[str]] = {}
        for graph in graphs(proto.graph):
            for value in graph.output:
                self._read(value.name, "output")
            for node in graph.node:
                if node.op_type == "Identity":
                    continue
                for name in node.input:
                    self._read(name, node.op_type)

    def _read(self, name: str, by: str) -> None:
        name = self.source(name)
        self._reads[name] += 1
        self._readers.setdefault(name, set()).add(by)

    def source(self, name: str) -> str:
        """A name, read through the nodes that only rename it."""
        while name in self.renamed:
            name = self.renamed[name]
        return name

    def reads(self, name: str) -> int:
        """How often a value is read, as an output of its graph too."""
        return self._reads[self.source(name)]

    def readers(self, name: str) -> set[str]:
        """The operators that read a value; `output` where it is one."""
        return self._readers.get(self.source(name), set())

    def rank(self, name: str) -> int | None:
        """How many dimensions a value has, where shape inference can tell."""
        return self._ranks.get(name)

    def node(self, proto: onnx.NodeProto, number: int) -> Node:
        """A node with a name of its own where it has none."""
        kind = key_of(proto.domain, proto.op_type)
        attributes = {entry.name: attribute_of(entry) for entry in proto.attribute}
        return Node(
            kind,
            proto.name or f"{proto.op_type}_{number}",
            tuple(proto.input),
            tuple(proto.output),
            attributes,
            self.opset,
        )

    def constant(self, tensor: Tensor, name: str, scope: str) -> Constant:
        """An initializer or constant node: a weight where it is floating, several elements, and no mask."""
        readers = self.readers(name)
        weight = (
            tensor.is_floating_point()
            and tensor.numel() > 1
            and not bool((tensor <= _HIDING).any())
            and not readers <= _NO_GRADIENT
        )
        return Constant(known(tensor), weight, f"{scope}{name}")


def attribute_of(entry: onnx.AttributeProto) -> Any:
    """An attribute as a Python value: text decoded, lists as tuples, a tensor of one element as (number, type)."""
    if entry.type == onnx.AttributeProto.TENSOR:
        if entry.t.data_type not in TYPES:
            return entry.t
        tensor = tensor_from(entry.t)
        return (tensor.item(), tensor.dtype) if tensor.numel() == 1 else tensor
    value = onnx.helper.get_attribute_value(entry)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if entry.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return tuple(value)
    if entry.type == onnx.AttributeProto.STRINGS:
        return tuple(text.decode(errors="replace") for text in value)
    return value


def constant_node(proto: onnx.NodeProto) -> Tensor:
    """The value of a `Constant` node, which holds numbers."""
    entry = proto.attribute[0]
    if entry.name == "value":
        return tensor_from(entry.t)
    kind = torch.float32 if "float" in entry.name else torch.int64
    return torch.tensor(onnx.helper.get_attribute_value(entry), dtype=kind)


def _renamed(proto: onnx.ModelProto) -> dict[str, str]:
    """What identities call something that is there already."""
    nodes = [node for graph in graphs(proto.graph) for node in graph.node]
    written = Counter(name for node in nodes for name in node.output)
    return {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx") and written[node.output[0]] == 1
    }


def _ranks(proto: onnx.ModelProto) -> dict[str, int]:
    try:
        inferred = onnx.shape_inference.infer_shapes(outline(proto), data_prop=True)
    except ONNX_ERRORS:
        inferred = proto
    found: dict[str, int] = {}
    for graph in graphs(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                found[value.name] = len(value.type.tensor_type.shape.dim)
    return found
