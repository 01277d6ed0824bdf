"""ONNX models that passes write: one way to save them, so that the same model has the same bytes and digest."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper

from workers.model_handle import PROTOBUF_LIMIT_BYTES, ModelHandle

ENTRY = "model.onnx"
WEIGHTS = "model.onnx.data"
GRAPH_ALLOWANCE_BYTES = 64 * 1024 * 1024  # what nodes and small tensors may take besides the weights
EXTERNAL_TENSOR_BYTES = 1024  # smaller tensors stay in the protobuf: shape inference reads them


def save_onnx(model: onnx.ModelProto, out: Path, *, limit_bytes: int = PROTOBUF_LIMIT_BYTES) -> ModelHandle:
    """Write a model into the folder `out`; weights go into a file beside it where the protobuf would pass the limit.

    The bytes depend on the model alone. The protobuf is changed when weights move out of it.
    """
    out.mkdir(parents=True, exist_ok=True)
    entry = out / ENTRY
    if weight_bytes(model) + GRAPH_ALLOWANCE_BYTES > limit_bytes:
        external_data_helper.convert_model_to_external_data(
            model, location=WEIGHTS, size_threshold=EXTERNAL_TENSOR_BYTES, convert_attribute=False
        )
        onnx.save_model(model, str(entry))
    else:
        entry.write_bytes(model.SerializeToString(deterministic=True))
    return ModelHandle(out, ENTRY, "onnx", tree_digest(out))


def tree_digest(root: Path) -> str:
    """The digest that `storage.put_tree` gives the files below a folder."""
    from app.storage import TreeFile, tree_text  # late: every launch of an engine would read the settings

    entries = [
        TreeFile(path.relative_to(root).as_posix(), file_digest(path))
        for path in root.rglob("*")
        if path.is_file()
    ]
    return hashlib.sha256(tree_text(entries).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_bytes(model: onnx.ModelProto) -> int:
    """The size in bytes of all initializers, those of subgraphs included."""
    return sum(tensor_bytes(tensor) for graph in graphs(model.graph) for tensor in graph.initializer)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The size of a tensor's data in bytes."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return int(tensor.ByteSize())


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph inside its nodes, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def opset_of(model: onnx.ModelProto, domain: str = "") -> int:
    """The version of a domain's operators that a model uses; 0 where it uses none."""
    names = {"", "ai.onnx"} if domain in ("", "ai.onnx") else {domain}
    return max((entry.version for entry in model.opset_import if entry.domain in names), default=0)


def signature_of(model: onnx.ModelProto) -> dict[str, dict[str, tuple[int, tuple[object, ...]]]]:
    """{inputs, outputs: {name: (element type, dimensions)}}; inputs with a default value (initializers) are none.

    A free dimension is its name, or None.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        "inputs": {i.name: _type_of(i) for i in model.graph.input if i.name not in constants},
        "outputs": {o.name: _type_of(o) for o in model.graph.output},
    }


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, tuple[object, ...]]:
    tensor = value.type.tensor_type
    return tensor.elem_type, tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    )
