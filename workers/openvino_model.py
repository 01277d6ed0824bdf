"""Models as OpenVINO holds them: from ONNX or IR, with the signature that they had, and written the same way each time."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from app.errors import InvalidModel, UnsupportedOperator
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.onnx_nodes import nodes_of
from workers.openvino_errors import refused
from workers.openvino_library import openvino

ENTRY = "model.xml"
WEIGHTS = "model.bin"
FORMAT = "openvino"
SINK = "/sink_port_0"  # what OpenVINO's frontends put behind the name of an output
NUMPY = {
    "f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool", "i8": "int8", "i16": "int16",
    "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip

Model = Any  # openvino.Model; its stubs leave most of it untyped


def read(model: ModelHandle, stage: str) -> Model:
    """An ONNX model or an IR as OpenVINO's graph, its constants folded, in the model's own precision.

    Weights may stay mapped from the model's files.

    Raises:
        UnsupportedOperator: OpenVINO has no rule for an operator, or numpy none of the type of an input or output.
        InvalidModel: anything else that is wrong with it.
    """
    if model.format == FORMAT:
        with refused("reading the model with OpenVINO", stage=stage):
            return openvino.Core().read_model(str(model.path))
    proto = model.load_onnx(weights=False)
    with refused("converting the model to OpenVINO", stage=stage, model=proto):
        graph = openvino.convert_model(str(model.path))
    keep_inputs(proto, graph)
    check_signature(proto, graph, stage)
    if any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops()):
        keep_reduced_axes(graph)
    name_nodes(
        graph, {name for node in nodes_of(proto) for name in (node.name, *node.output)} | _tensors(proto)
    )
    return graph


def write(graph: Model, out: Path) -> ModelHandle:
    """Write a graph as an IR into the folder `out`, weights in the precision that they have."""
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, str(out / ENTRY), compress_to_fp16=False)
    return ModelHandle(out, ENTRY, FORMAT, tree_digest(out))


def copy(model: ModelHandle, out: Path) -> None:
    """Copy an IR's two files into the folder `out`."""
    shutil.copyfile(model.path, out / ENTRY)
    shutil.copyfile(model.path.with_suffix(".bin"), out / WEIGHTS)


def keep_inputs(proto: onnx.ModelProto, graph: Model) -> None:
    """Give inputs back that the conversion took: one that nothing reads is dropped, one that is only passed on may be called
    like the output. Whoever feeds the model would be refused."""
    held = {tensor.name for tensor in proto.graph.initializer}
    wanted = {value.name for value in proto.graph.input} - held
    for port in graph.inputs:
        own = wanted & port.get_names()
        if name_of(port) not in wanted and len(own) == 1:
            port.get_node().set_friendly_name(own.pop())
    found = {name_of(port) for port in graph.inputs}
    for value in proto.graph.input:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        if value.name in held or value.name in found or kind.name not in NUMPY.values():
            continue
        dims = [dim.dim_value if dim.dim_value > 0 else -1 for dim in value.type.tensor_type.shape.dim]
        unread = openvino.opset13.parameter(openvino.PartialShape(dims), kind, name=value.name)
        unread.output(0).get_tensor().set_names({value.name})
        graph.add_parameters([unread])


def name_nodes(graph: Model, known: set[str]) -> None:
    """Number anew every node whose name is not `known` or made of such a name (`known/suffix`).

    OpenVINO numbers the nodes that it makes by a counter of the process: the same model would never be the same bytes.
    """
    number = 0
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        parts = name.split("/")
        if not any("/".join(parts[:end]) in known for end in range(1, len(parts) + 1)):
            node.set_friendly_name(f"made_{number}_{node.get_type_name()}")
            number += 1


def keep_reduced_axes(graph: Model) -> None:
    """Let each reduction that drops its axes keep them, and drop them by a Squeeze behind it: the same numbers.

    Where a factor per channel and a FakeQuantize follow (SmoothQuant makes this form), OpenVINO 2026.4's CPU plugin
    makes all three one kernel, which takes the factors of another axis, or of memory behind them.
    """
    for node in graph.get_ordered_ops():
        if not node.get_type_name().startswith("Reduce") or node.get_attributes().get("keep_dims", True):
            continue
        readers = list(node.output(0).get_target_inputs())
        axes = node.input_value(1).get_node()
        single = len(readers) == 1 and readers[0].get_node().get_type_name() != "Result"
        if single and axes.get_type_name() == "Constant":
            node.set_attribute("keep_dims", True)
            node.validate_and_infer_types()
            squeeze = openvino.opset13.squeeze(node, axes)
            squeeze.set_friendly_name(f"{node.get_friendly_name()}/squeeze")
            readers[0].replace_source_output(squeeze.output(0))
    graph.validate_nodes_and_infer_types()


def name_of(port: Any) -> str:
    """What an input or output of a graph is called: by its node, as tensors that became one share all their names.

    A compiled network's ports cannot tell: its own merging of values renames even these nodes.
    """
    return str(port.get_node().get_friendly_name()).removesuffix(SINK)


def described(port: Any) -> dict[str, Any]:
    """An input or output of a graph as {name, dtype (numpy), shape}; a free dimension is None."""
    shape = port.get_partial_shape()
    kind = port.get_element_type().to_string()
    return {
        "name": name_of(port),
        "dtype": NUMPY.get(kind, kind),
        "shape": []
        if shape.rank.is_dynamic
        else [dim.get_length() if dim.is_static else None for dim in shape],
    }


def signature(model: ModelHandle) -> dict[str, list[dict[str, Any]]]:
    """{inputs, outputs: [{name, dtype, shape}]} of an IR.

    Raises:
        InvalidModel: it cannot be read.
    """
    return signature_of(read(model, "describing"))


def signature_of(graph: Model) -> dict[str, list[dict[str, Any]]]:
    """{inputs, outputs: [{name, dtype, shape}]} of a graph."""
    return {
        "inputs": [described(port) for port in graph.inputs],
        "outputs": [described(port) for port in graph.outputs],
    }


def check_signature(proto: onnx.ModelProto, graph: Model, stage: str) -> None:
    """Hold the inputs and outputs of a converted graph against the ONNX that it comes from.

    Raises:
        InvalidModel: their names are others.
        UnsupportedOperator: numpy has no type for one.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    given = [value.name for value in proto.graph.input if value.name not in constants]
    for side, wanted, ports in (
        ("inputs", sorted(given), sorted(graph.inputs, key=name_of)),
        ("outputs", [value.name for value in proto.graph.output], graph.outputs),
    ):
        found = [name_of(port) for port in ports]
        if found != wanted:
            raise InvalidModel(
                f"OpenVINO's conversion has the {side} {', '.join(found)} instead of {', '.join(wanted)}",
                stage=stage,
                hint="choose an ONNX Runtime target, or export the model without what OpenVINO takes away",
            )
        for name, port in zip(wanted, ports, strict=True):
            kind = port.get_element_type().to_string()
            if kind not in NUMPY:
                raise UnsupportedOperator(
                    f"the {side[:-1]} {name!r} is of type {kind}, which an OpenVINO engine does not exchange with numpy",
                    stage=stage,
                    node=name,
                    hint="cast it to a type that numpy has, or choose an ONNX Runtime target",
                )


def _tensors(proto: onnx.ModelProto) -> set[str]:
    graph = proto.graph
    return {tensor.name for tensor in (*graph.initializer, *graph.input, *graph.output)}
