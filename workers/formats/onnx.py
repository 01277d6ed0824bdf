"""ONNX: is it valid, what does it take and give, what is in it. Weights beside the protobuf are checked, not loaded."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, shape_inference

from app.catalog.spec import PROTOBUF_LIMIT_BYTES, Precision
from app.errors import InvalidModel, UnsupportedFormat
from workers.formats.flops import NOTE, count_flops
from workers.onnx_files import graphs
from workers.onnx_nodes import nodes_of

FORMAT = "onnx"
STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"}
_LISTED = 20


def find_entry(root: Path) -> str:
    """The ONNX file of an unpacked upload: the only `.onnx` there is, or the only one at the top.

    Raises:
        UnsupportedFormat: none, or several.
    """
    found = sorted(root.rglob("*.onnx"))
    top = [path for path in found if path.parent == root]
    candidates = top if len(top) == 1 else found
    if len(candidates) == 1:
        return candidates[0].relative_to(root).as_posix()
    names = [path.relative_to(root).as_posix() for path in found]
    raise UnsupportedFormat(
        f"the archive holds several .onnx files: {names[:_LISTED]}"
        if names
        else "the archive holds no .onnx file",
        hint="pack one model: its .onnx file at the top, and its weight files where it refers to them",
    )


def read(root: Path, entry: str) -> onnx.ModelProto:
    """The protobuf without external weights.

    Raises:
        InvalidModel: the bytes are no ONNX model.
    """
    path = root / entry
    if path.stat().st_size > PROTOBUF_LIMIT_BYTES:
        raise InvalidModel(
            "the .onnx file is larger than 2 GB, which protobuf cannot hold",
            hint="save it with external data: onnx.save(model, path, save_as_external_data=True), and upload a .zip of both",
        )
    try:
        model = onnx.load(str(path), load_external_data=False, format="protobuf")
    except DecodeError as error:
        raise InvalidModel(
            f"the file is no ONNX model: {error}",
            hint="upload a .onnx file, or a .zip or .tar with its external weights",
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        raise InvalidModel("the file is no ONNX model: it has no graph or no opset")
    return model


def check(root: Path, entry: str) -> onnx.ModelProto:
    """Read a model and hold it against the standard; the answer has inferred shapes, and no external weights.

    Raises:
        InvalidModel: the checker refuses it, or external weights are missing or lie about themselves.
    """
    model = read(root, entry)
    check_external(model, root / entry, root)
    try:
        onnx.checker.check_model(str(root / entry))
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        raise InvalidModel(
            f"the ONNX checker refuses the model: {str(error).splitlines()[0][:500]}",
            hint="export it again with a current exporter; onnx.checker.check_model(path) gives the whole message",
        ) from error
    return infer(model)


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that can be inferred; as it is, where inference fails.

    Raises:
        InvalidModel: the shapes contradict each other.
    """
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as error:
        raise InvalidModel(f"shapes contradict each other: {str(error).splitlines()[0][:500]}") from error
    except (ValueError, RuntimeError):
        return model


def check_external(model: onnx.ModelProto, path: Path, root: Path) -> None:
    """Hold every reference to weights outside the protobuf against the files that came with it.

    Raises:
        InvalidModel: a file is missing, lies outside the upload, or is shorter than the reference.
    """
    for tensor in tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        told = {item.key: item.value for item in tensor.external_data}
        location = PurePosixPath(told.get("location", ""))
        if not location.parts or location.is_absolute() or ".." in location.parts or "\\" in str(location):
            raise InvalidModel(
                f"weights of {tensor.name!r} point outside the upload: {str(location)!r}",
                node=tensor.name,
                hint="save the external data beside the .onnx file, under a relative name",
            )
        file = path.parent / location
        if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
            raise InvalidModel(
                f"weights of {tensor.name!r} are in {str(location)!r}, which was not uploaded",
                node=tensor.name,
                hint="upload one .zip or .tar with the .onnx file and its weight files",
            )
        check_extent(tensor, told, file.stat().st_size)


def check_extent(tensor: TensorProto, told: dict[str, str], held: int) -> None:
    """Raises InvalidModel where a tensor reaches beyond its file, or its length is not what dtype and shape need."""
    try:
        offset = int(told.get("offset") or 0)
        length = int(told["length"]) if told.get("length") else held - offset
    except ValueError as error:
        raise InvalidModel(f"offset or length of {tensor.name!r} is no number", node=tensor.name) from error
    if offset < 0 or length < 0 or offset + length > held:
        raise InvalidModel(
            f"weights of {tensor.name!r} reach from byte {offset} to {offset + length} of a file of {held} bytes",
            node=tensor.name,
            hint="the weight file is cut short or belongs to another model: upload it again",
        )
    if tensor.data_type == TensorProto.STRING:
        raise InvalidModel(f"the strings of {tensor.name!r} cannot lie in an external file", node=tensor.name)
    needed = -(-elements(tensor) * bits_of(tensor.data_type) // 8)
    if needed > length:
        raise InvalidModel(
            f"weights of {tensor.name!r} need {needed} bytes and have {length}", node=tensor.name
        )


def describe(root: Path, entry: str, model: onnx.ModelProto | None = None) -> dict[str, Any]:
    """{signature, facts} of a model that is valid; `model` is what `check` gave, if it was called."""
    model = infer(read(root, entry)) if model is None else model
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    flops, unknown = count_flops(model)
    note = NOTE + (f"; {len(unknown)} nodes of unknown shape not counted" if unknown else "")
    nodes = list(nodes_of(model))
    domains = {item.domain: item.version for item in model.opset_import}
    facts = {
        "opset": domains.get("", domains.get("ai.onnx")),
        "ir_version": model.ir_version,
        "producer": " ".join(filter(None, [model.producer_name, model.producer_version]))[:200],
        "parameters": sum(elements(tensor) for tensor in tensors(model)),
        "flops": flops,
        "flops_note": note,
        "operators": dict(Counter(node.op_type for node in nodes).most_common()),
        "domains": domains,
        "custom_domains": sorted({node.domain for node in nodes} - STANDARD_DOMAINS),
        "precision": precision_of(model),
        "size_bytes": size,
        "over_2gb": size > PROTOBUF_LIMIT_BYTES,
        "entry": entry,
    }
    return {"signature": signature(model), "facts": facts}


def signature(model: onnx.ModelProto) -> dict[str, Any]:
    """{inputs, outputs}: name, numpy dtype, shape; a free dimension is its name, or null.

    Raises:
        InvalidModel: an input or output is no tensor.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    return {
        "inputs": [_entry(value, "input") for value in model.graph.input if value.name not in held],
        "outputs": [_entry(value, "output") for value in model.graph.output],
    }


def precision_of(model: onnx.ModelProto) -> Precision:
    """The precision in which the network computes, from its operators and weights."""
    kinds = {node.op_type for node in nodes_of(model)}
    if "MatMulNBits" in kinds:
        bits = {
            attribute.i
            for node in nodes_of(model)
            if node.op_type == "MatMulNBits"
            for attribute in node.attribute
            if attribute.name == "bits"
        }
        return "weights-8bit" if bits == {8} else "weights-4bit"
    if kinds & {
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulIntegerToFloat",
    }:
        return "int8-dynamic"
    if kinds & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"}:
        return "int8"
    types: Counter[int] = Counter()
    for tensor in tensors(model):
        types[tensor.data_type] += elements(tensor)
    halves = types[TensorProto.FLOAT16] + types[TensorProto.BFLOAT16]
    if not halves:
        return "fp32"
    return "fp16" if types[TensorProto.FLOAT] * 10 < halves else "mixed"


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that may lie outside the protobuf: initializers and attributes, subgraphs included."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from attribute_tensors(graph)
    for function in model.functions:
        yield from attribute_tensors(function)


def attribute_tensors(holder: onnx.GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    """The tensors in the attributes of a graph's or function's nodes."""
    for node in holder.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def elements(tensor: TensorProto) -> int:
    """The number of elements that a tensor's shape gives.

    Raises:
        InvalidModel: a dimension is negative, or the product passes 2^63.
    """
    total = 1
    for dim in tensor.dims:
        if dim < 0:
            raise InvalidModel(f"a dimension of {tensor.name!r} is negative", node=tensor.name)
        total *= dim
    if total >= 2**63:
        raise InvalidModel(
            f"the shape of {tensor.name!r} is too large: {list(tensor.dims)[:8]}", node=tensor.name
        )
    return total


def bits_of(data_type: int) -> int:
    """Bits per element of an ONNX type.

    Raises:
        InvalidModel: there is no such type.
    """
    names = TensorProto.DataType
    try:
        name = names.Name(data_type)
    except ValueError as error:
        raise InvalidModel(f"a tensor has the unknown type {data_type}") from error
    if "INT4" in name or "FLOAT4" in name:
        return 4
    if "INT2" in name:
        return 2
    return int(np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize) * 8


def _entry(value: onnx.ValueInfoProto, what: str) -> dict[str, Any]:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        raise InvalidModel(
            f"{what} {value.name!r} is a {kind or 'value without a type'}; inputs and outputs must be tensors",
            node=value.name,
            hint="wrap the network so that it takes and gives tensors",
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") and what == "input":
        raise InvalidModel(
            f"input {value.name!r} has no shape",
            node=value.name,
            hint="export the model with the rank of each input",
        )
    dims = [dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": dtype_name(tensor.elem_type), "shape": dims}


def dtype_name(data_type: int) -> str:
    """The numpy name of an ONNX type, `string` for text."""
    if data_type == TensorProto.STRING:
        return "string"
    bits_of(data_type)
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).name)
