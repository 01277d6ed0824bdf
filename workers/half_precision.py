"""Rewrites an ONNX graph from fp32 to fp16 or bf16, deciding node by node from the operators' schemas.

A value keeps its name and becomes half. A node that cannot take that (its schema does not allow it, nothing is known
of its domain, or it is blocked) computes in fp32 between casts, so that those around it may rely on halves. Graphs
inside control flow follow the same rule: what they read from outside has the type that they expect.
"""

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from workers.float_types import FP16, FloatType
from workers.onnx_files import graphs, opset_of, subgraphs
from workers.onnx_prepare import set_nodes

FLOAT = TensorProto.FLOAT
SHORT: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
IN_SCHEMAS: dict[int, str] = {TensorProto.FLOAT16: "(float16)", TensorProto.BFLOAT16: "(bfloat16)"}
FLOAT_UNLESS_TOLD = (
    "RandomNormal",
    "RandomUniform",
    "ConstantOfShape",
)  # what they give without an attribute


class HalfPrecision:
    """One conversion of one model, in place. Every fp32 value needs a declared type (`onnx_prepare.infer_types`)."""

    def __init__(
        self,
        model: onnx.ModelProto,
        keep_io_types: bool,
        blocked_operators: frozenset[str],
        blocked_nodes: frozenset[str],
        half: FloatType = FP16,
    ):
        self._model = model
        self._keep_io_types = keep_io_types
        self._blocked_operators = blocked_operators
        self._blocked_nodes = blocked_nodes
        self._type = half
        self._read_half: set[str] = set()  # weights that some node reads as halves
        self._read_single: set[str] = set()  # … in fp32
        self._half: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._casts = 0
        self._raised = 0
        self.clamped = 0

    def apply(self) -> None:
        """Convert the model."""
        graph = self._model.graph
        before: list[NodeProto] = []
        single: dict[str, str] = {}
        if self._keep_io_types:
            for value in self._io(graph.input):
                half = f"{value}__{SHORT[self._type.onnx]}"
                _rename_read(graph, value, half)
                before.append(self._cast(value, half, self._type.onnx))
                single[half] = value
        self._convert(graph, frozenset(single), frozenset(), single, before)
        if self._keep_io_types:
            self._restore_outputs(graph, single)
        for inner in graphs(graph):
            self._convert_weights(inner)

    def facts(self) -> dict[str, Any]:
        """{half, kept: {operator: nodes}, casts, clamped_weights, raised_weights}."""
        return {
            "half": dict(self._half),
            "kept": dict(self._kept),
            "casts": self._casts,
            "clamped_weights": self.clamped,
            "raised_weights": self._raised,
        }

    def _convert(
        self,
        graph: onnx.GraphProto,
        outer_floats: frozenset[str],
        outer_weights: frozenset[str],
        single: dict[str, str],
        nodes: list[NodeProto],
    ) -> None:
        """Convert one graph's nodes and declared types. `single` maps values to their fp32 version, where there is one;
        `nodes` are what comes first."""
        weights = outer_weights | {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT}
        floats = outer_floats | weights | _declared_floats(graph)
        for node in graph.node:
            bodies = list(subgraphs(node))
            for body in bodies:
                self._convert(body, floats, weights, dict(single), [])
            if bodies:
                self._read_half.update(weights & set(node.input))
                nodes.append(node)
            elif floats.isdisjoint(node.input) and floats.isdisjoint(node.output):
                nodes.append(node)
            else:
                self._convert_node(node, floats, weights, single, nodes)
        self._read_half.update(weights & {value.name for value in graph.output})
        set_nodes(graph, nodes)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _make_half(value.type, self._type)

    def _convert_node(
        self,
        node: NodeProto,
        floats: frozenset[str],
        weights: frozenset[str],
        single: dict[str, str],
        nodes: list[NodeProto],
    ) -> None:
        schema = self._schema(node)
        half = schema is not None and not self._is_blocked(node) and self._takes_half(node, schema, floats)
        (self._half if half else self._kept)[node.op_type] += 1
        if half:
            _retype_attributes(node, self._type)
        for index, name in enumerate(node.input):
            if name not in floats:
                continue
            if half and not _only_float(schema.inputs, index):
                self._read_half.update({name} & weights)
            elif name in weights:
                self._read_single.add(name)
                node.input[index] = f"{name}__fp32"
            else:
                if name not in single:
                    single[name] = f"{name}__fp32"
                    nodes.append(self._cast(name, single[name], FLOAT))
                node.input[index] = single[name]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats and not (half and not _only_float(schema.outputs, index)):
                single[name] = f"{name}__fp32"
                node.output[index] = single[name]
                nodes.append(self._cast(single[name], name, self._type.onnx))

    def _schema(self, node: NodeProto) -> Any:
        try:
            return onnx.defs.get_schema(node.op_type, opset_of(self._model, node.domain), node.domain)
        except onnx.defs.SchemaError:
            return None

    def _is_blocked(self, node: NodeProto) -> bool:
        return node.op_type in self._blocked_operators or node.name in self._blocked_nodes

    def _takes_half(self, node: NodeProto, schema: Any, floats: frozenset[str]) -> bool:
        """Whether every fp32 value of the node may be half, save those that are fp32 by definition."""
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for index, name in enumerate(names):
                kind = _formal(formals, index).type_str
                if (
                    name in floats
                    and kind in allowed
                    and not any(IN_SCHEMAS[self._type.onnx] in text for text in allowed[kind])
                ):
                    return False
        return True

    def _cast(self, source: str, target: str, kind: int) -> NodeProto:
        self._casts += 1
        return helper.make_node("Cast", [source], [target], name=f"{target}__cast", to=kind)

    def _io(self, values: Any) -> list[str]:
        constants = {tensor.name for tensor in self._model.graph.initializer}
        return [v.name for v in values if v.type.tensor_type.elem_type == FLOAT and v.name not in constants]

    def _restore_outputs(self, graph: onnx.GraphProto, single: dict[str, str]) -> None:
        """Give the model's fp32 outputs back under their names."""
        produced = {name for node in graph.node for name in node.output}
        for value in graph.output:
            if value.type.tensor_type.elem_type == self._type.onnx and value.name in produced:
                half = f"{value.name}__{SHORT[self._type.onnx]}"
                _rename_read(graph, value.name, half)
                _rename_written(graph, value.name, half)
                if value.name in single:
                    graph.node.append(helper.make_node("Identity", [single[value.name]], [value.name]))
                else:
                    graph.node.append(self._cast(half, value.name, FLOAT))
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == self._type.onnx:
                value.type.tensor_type.elem_type = FLOAT

    def _convert_weights(self, graph: onnx.GraphProto) -> None:
        weights = [tensor for tensor in graph.initializer if tensor.data_type == FLOAT]
        for tensor in weights:
            if tensor.name in self._read_single:
                copy = graph.initializer.add()
                copy.CopyFrom(tensor)
                copy.name = f"{tensor.name}__fp32"
        for tensor in weights:
            if tensor.name in self._read_single and tensor.name not in self._read_half:
                graph.initializer.remove(tensor)
            else:
                clamped, raised = self._type.beyond(numpy_helper.to_array(tensor))
                self.clamped += clamped
                self._raised += raised
                tensor.CopyFrom(self._type.narrowed_tensor(tensor, tensor.name))


def _declared_floats(graph: onnx.GraphProto) -> set[str]:
    """Values of a graph that are fp32 tensors, or sequences or options of such."""
    return {
        value.name
        for value in (*graph.input, *graph.output, *graph.value_info)
        if _tensor_type(value.type).elem_type == FLOAT
    }


def _tensor_type(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
        kind = getattr(kind, kind.WhichOneof("value")).elem_type
    return kind.tensor_type


def _make_half(kind: onnx.TypeProto, half: FloatType) -> None:
    if kind.WhichOneof("value") is not None and (tensor := _tensor_type(kind)).elem_type == FLOAT:
        tensor.elem_type = half.onnx


def _formal(formals: Any, index: int) -> Any:
    return formals[min(index, len(formals) - 1)]


def _only_float(formals: Any, index: int) -> bool:
    """Whether the operator's definition fixes this input or output to fp32 (as Resize does its scales)."""
    return bool(_formal(formals, index).type_str == "tensor(float)")


def _retype_attributes(node: NodeProto, half: FloatType) -> None:
    """Make a node that states its result's type state half instead of fp32."""
    stated = False
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype"):
            stated = True
            if attribute.i == FLOAT:
                attribute.i = half.onnx
        elif attribute.type == onnx.AttributeProto.TENSOR:
            stated = True
            if attribute.t.data_type == FLOAT:
                attribute.t.CopyFrom(half.narrowed_tensor(attribute.t, attribute.t.name))
    if node.op_type in FLOAT_UNLESS_TOLD and not stated:
        if node.op_type == "ConstantOfShape":
            node.attribute.append(
                helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, dtype=half.numpy)))
            )
        else:
            node.attribute.append(helper.make_attribute("dtype", half.onnx))


def _rename_read(graph: onnx.GraphProto, old: str, new: str) -> None:
    for inner in graphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        if inner is not graph:
            for value in inner.output:
                if value.name == old:
                    value.name = new


def _rename_written(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = new
