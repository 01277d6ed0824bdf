"""What the nodes of an ONNX model compute and move, see `costs`.

Shapes are inferred from those of the feeds. Where that does not reach every node, as behind operators that shape inference does not know,
ONNX Runtime runs the model once as it stands, and tells them.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions
from onnxruntime import GraphOptimizationLevel, InferenceSession

from app.errors import BurnishError
from workers.formats.flops import Shapes, node_flops, with_shapes
from workers.model_handle import ModelHandle
from workers.onnx_errors import refused
from workers.profiling.costs import Model, Operation, Value
from workers.profiling.onnx_labels import Level, labelled
from workers.profiling.onnxruntime_trace import read_events, runs_of
from workers.runtimes.base import Feeds
from workers.runtimes.onnxruntime_session import silent_options

VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
LOOKS = frozenset(("Shape", "Size", "ConstantOfShape", "Range"))  # at shapes or single numbers, not at values
TABLES = frozenset(("Gather", "GatherND", "GatherElements", "Slice", "EmbedLayerNormalization"))
CONTROL = frozenset(("If", "Loop", "Scan"))
FOUR_BITS = frozenset((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1))
FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))


@dataclass
class _Known:
    """Shapes and element types by value."""

    shapes: Shapes = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)


def of_onnx(model: ModelHandle, feeds: Feeds) -> Model:
    """The operations of a model for these feeds, called as `onnx_labels.labelled` has it. Weights are not read."""
    found = model.load_onnx(weights=False)
    plain = inline_local_functions(found) if found.functions else found
    level = labelled(with_shapes(plain, {name: value.shape for name, value in feeds.items()}).graph)
    known = _Known()
    for one in level.levels():
        _inferred(one.graph, known)
    if any(name and name not in known.shapes for one in level.levels() for name in _made(one)):
        _observe(model, feeds, known)
    reader = _Reader(known)
    operations = {one.name: one for one in reader.read(level)}
    return Model(
        operations, reader.values, frozenset(reader.named(value.name) for value in level.graph.output)
    )


def _made(level: Level) -> Iterator[str]:
    for node in level.graph.node:
        yield from node.output


def _inferred(graph: onnx.GraphProto, known: _Known) -> None:
    for value in (*graph.input, *graph.value_info, *graph.output):
        held = value.type.tensor_type
        if held.HasField("shape") and all(dim.HasField("dim_value") for dim in held.shape.dim):
            known.shapes[value.name] = [dim.dim_value for dim in held.shape.dim]
        if held.elem_type:
            known.types[value.name] = held.elem_type
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        _constant(tensor.name, tensor, known)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    _constant(node.output[0], attribute.t, known)


def _constant(name: str, tensor: onnx.TensorProto, known: _Known) -> None:
    known.shapes[name], known.types[name] = list(tensor.dims), tensor.data_type
    known.constants.add(name)


def _observe(model: ModelHandle, feeds: Feeds, known: _Known) -> None:
    """Shapes and types as they are when the model runs; where it does not, what was inferred is all there is."""
    with tempfile.TemporaryDirectory() as folder:
        options = silent_options()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        try:
            with refused("running the model once", stage="profiling"):
                session = InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
                session.run(None, feeds)
                events = read_events(Path(session.end_profiling()))
        except BurnishError:
            return
    level = labelled(model.load_onnx(weights=False).graph)
    for call in (call for run in runs_of(events, level) for call in run.all()):
        if call.label is None or call.level is None:
            continue
        names = [name for name in call.level.graph.node[call.place].output if name]
        told = [one for entry in call.told.get("output_type_shape", ()) for one in entry.items()]
        for name, (kind, shape) in zip(names, told, strict=True) if len(names) == len(told) else ():
            known.shapes[name] = list(shape)
            known.types.setdefault(name, _TYPES.get(kind, TensorProto.UNDEFINED))


_TYPES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


class _Reader:
    """From nodes to operations; values that are views of others go by the name of what they view."""

    def __init__(self, known: _Known):
        self._known = known
        self._viewed: dict[str, str] = {}
        self.values: dict[str, Value] = {}

    def read(self, level: Level, *, repeated: bool = False) -> Iterator[Operation]:
        """The operations of a graph and of those inside it; `values` are then those that they read and write."""
        for place, (label, node) in enumerate(zip(level.labels, level.graph.node, strict=True)):
            yield self._operation(label, node, repeated)
            for body in level.bodies.get(place, {}).values():
                yield from self.read(body, repeated=True)

    def _operation(self, label: str, node: onnx.NodeProto, repeated: bool) -> Operation:
        read = [name for name in node.input if name]
        made = [name for name in node.output if name]
        if self._is_constant(node, read):
            self._fold(read, made)
            return Operation(label, node.op_type, 0, {}, ())
        if node.op_type in VIEWS and read and made:
            self._viewed[made[0]] = self._root(read[0])
            return Operation(label, node.op_type, 0, {}, (), repeated)
        reads: dict[str, float] = {}
        if node.op_type not in LOOKS:
            for number, name in enumerate(read):
                root = self.named(name)
                share = (
                    self._share(name, made)
                    if node.op_type in TABLES and self._is_table(node, number)
                    else 1.0
                )
                reads[root] = max(share, reads.get(root, 0.0))
        writes = tuple(self.named(name) for name in made)
        return Operation(label, node.op_type, self._flops(node), reads, writes, repeated)

    def _is_constant(self, node: onnx.NodeProto, read: list[str]) -> bool:
        if not read:
            return node.op_type == "Constant"
        return node.op_type not in CONTROL and all(name in self._known.constants for name in read)

    def _flops(self, node: onnx.NodeProto) -> int | None:
        if node.op_type in CONTROL:
            return 0 if node.op_type == "If" else None
        try:
            return node_flops(node, self._known.shapes)
        except (KeyError, IndexError, ValueError):
            return None

    def _fold(self, read: list[str], made: list[str]) -> None:
        """Runtimes compute on constants when they build, or each time from what is stored: the smaller of the two counts."""
        bits = sum(value.bits for name in read if (value := self._value(name)) is not None)
        self._known.constants.update(made)
        for name in made:
            value = self._value(name)
            if value is not None:
                least = min(value.bits, bits) if read else value.bits
                self.values[name] = Value(value.elements, least, value.floating, weight=True)

    def _is_table(self, node: onnx.NodeProto, number: int) -> bool:
        """Whether an input is one of which a part is read, at least."""
        if node.op_type == "EmbedLayerNormalization":
            return number > 1
        return number == 0

    def _share(self, name: str, made: list[str]) -> float:
        whole, part = self._value(name), self._value(made[0]) if made else None
        if whole is None or part is None or not whole.elements:
            return 1.0
        return min(1.0, part.elements / whole.elements)

    def _root(self, name: str) -> str:
        return self._viewed.get(name, name)

    def named(self, name: str) -> str:
        """The name under which a value counts; it is one of `values` then, where it is known."""
        root = self._root(name)
        if root not in self.values and (value := self._value(root)) is not None:
            self.values[root] = value
        return root

    def _value(self, name: str) -> Value | None:
        if name in self.values:
            return self.values[name]
        shape, kind = self._known.shapes.get(name), self._known.types.get(name)
        if shape is None or not kind:
            return None
        elements = prod(shape)
        return Value(elements, elements * _bits(kind), kind in FLOATS, name in self._known.constants)


def _bits(kind: int) -> int:
    if kind in FOUR_BITS:
        return 4
    return 0 if kind == TensorProto.STRING else 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize
