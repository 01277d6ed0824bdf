"""What quantization needs of a graph before it starts: constants as initializers, names for all nodes, types for all values."""

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from app.errors import InvalidModel
from workers.onnx_errors import ONNX_ERRORS
from workers.onnx_files import EXTERNAL_TENSOR_BYTES, graphs, opset_of, subgraphs, tensor_bytes


def prepare(model: onnx.ModelProto, stage: str, *, least_opset: int) -> onnx.ModelProto:
    """A model that the quantizers understand; it computes the same.

    Raises:
        InvalidModel: its operators cannot be brought to `least_opset`.
    """
    if opset_of(model) < least_opset:
        try:
            model = version_converter.convert_version(model, least_opset)
        except Exception as error:
            raise InvalidModel(
                f"the model uses opset {opset_of(model)}, and could not be brought to {least_opset}: {error}",
                stage=stage,
                hint=f"export the model with opset {least_opset} or later",
            ) from error
    lift_constants(model.graph)
    name_nodes(model.graph)
    return infer_types(model)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn `Constant` nodes that hold a tensor into initializers, in every graph: weights are looked for there.

    `Identity` nodes that only rename an initializer are read through.
    """
    for inner in graphs(graph):
        kept = []
        results = {value.name for value in inner.output}
        for node in inner.node:
            tensor = _constant_of(node)
            if tensor is None or node.output[0] in results:
                kept.append(node)
            else:
                tensor.name = node.output[0]
                inner.initializer.append(tensor)
        if len(kept) != len(inner.node):
            set_nodes(inner, kept)
        _read_through_identities(inner)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own."""
    taken = {node.name for inner in graphs(graph) for node in inner.node if node.name}
    seen: set[str] = set()
    for inner in graphs(graph):
        for number, node in enumerate(inner.node):
            if not node.name or node.name in seen:
                base = node.name or f"{node.op_type}_{number}"
                name, suffix = base, 1
                while name in taken:
                    name, suffix = f"{base}_{suffix}", suffix + 1
                node.name = name
                taken.add(name)
            seen.add(node.name)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put producers before consumers, in every graph, keeping the order otherwise.

    What a node's inner graphs read from outside counts as its input; ONNX's own tools forget that.
    """
    for inner in graphs(graph):
        produced = {name for node in inner.node for name in node.output if name}
        waiting = [(node, read_by(node) & produced) for node in inner.node]
        done: set[str] = set()
        ordered: list[onnx.NodeProto] = []
        while waiting:
            later = []
            for node, needs in waiting:
                if needs <= done:
                    ordered.append(node)
                    done.update(node.output)
                else:
                    later.append((node, needs))
            if len(later) == len(waiting):
                return  # a cycle: the checker will say where
            waiting = later
        if any(a is not b for a, b in zip(ordered, inner.node, strict=True)):
            set_nodes(inner, ordered)


def declare_domain(model: onnx.ModelProto, domain: str, version: int = 1) -> None:
    """Import an operator domain where a node uses it; ONNX Runtime's quantizer forgets those inside control flow."""
    used = any(node.domain == domain for graph in graphs(model.graph) for node in graph.node)
    if used and not any(entry.domain == domain for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def drop_unread_weights(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node reads and that are no output, in every graph."""
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in graphs(graph) for value in inner.output}
    for inner in graphs(graph):
        kept = [tensor for tensor in inner.initializer if tensor.name in read]
        if len(kept) != len(inner.initializer):
            copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
            del inner.initializer[:]
            inner.initializer.extend(copies)


def read_by(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and the graphs inside it."""
    names = set(node.input)
    for inner in subgraphs(node):
        for body in graphs(inner):
            names.update(value.name for value in body.output)
            for child in body.node:
                names.update(child.input)
    return names


def infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every value that ONNX's shape inference can tell; as it was where that fails.

    Inference sees an `outline`, so that the model may be larger than a protobuf can be.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(outline(model), data_prop=True)
    except ONNX_ERRORS:
        return model
    for mine, theirs in zip(graphs(model.graph), graphs(inferred.graph), strict=True):
        del mine.value_info[:]
        mine.value_info.extend(theirs.value_info)
    return model


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large weights are there by type and shape alone: all that shape inference reads of them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in graphs(copy.graph):
        for tensor in graph.initializer:
            if tensor_bytes(tensor) > EXTERNAL_TENSOR_BYTES:
                dims, kind, name = list(tensor.dims), tensor.data_type, tensor.name
                tensor.Clear()
                tensor.dims.extend(dims)
                tensor.data_type, tensor.name = kind, name
                tensor.data_location = onnx.TensorProto.EXTERNAL
    return copy


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            copy = onnx.TensorProto()
            copy.CopyFrom(attribute.t)
            return copy
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            return numpy_helper.from_array(_array_of(attribute))
    return None


def _array_of(attribute: onnx.AttributeProto) -> np.ndarray:
    kind = np.float32 if "float" in attribute.name else np.int64
    return np.asarray(onnx.helper.get_attribute_value(attribute), dtype=kind)


def _read_through_identities(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    results = {value.name for value in graph.output}
    names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = names.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and source in constants and node.output[0] not in results:
            names[node.output[0]] = source
        else:
            kept.append(node)
    if names:
        set_nodes(graph, kept)
        for inner in graphs(graph):
            for node in inner.node:
                for index, name in enumerate(node.input):
                    if name in names:
                        node.input[index] = names[name]


def set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace a graph's nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
