"""Which nodes of a model OpenVINO can run, told without building an engine."""

import re
from typing import Any

import onnx

from app.errors import BurnishError
from workers.model_handle import ModelHandle
from workers.onnx_nodes import nodes_of
from workers.openvino_errors import OPENVINO_ERRORS, explain, name_of, of_kinds, unconverted
from workers.openvino_library import openvino
from workers.openvino_model import FORMAT, check_signature, read
from workers.runtimes.base import Coverage, Uncovered

STAGE = "validating"
_FAILED = re.compile(r"^-- .+ with a message:\n(?P<message>(?:.+\n?)+)", re.MULTILINE)


def coverage(model: ModelHandle, device: str = "CPU") -> Coverage:
    """An ONNX model or an IR held against the conversion rules, and what comes of them against the device's kernels.

    All operators without a rule are told at once; what conversion does not reach for them counts as covered.

    Source: the report that a failed conversion gives; openvino.Core.query_model for the kernels.
    """
    if model.format == FORMAT:
        graph = read(model, STAGE)
        return Coverage(len(graph.get_ops()), _without_kernel(graph, device))
    proto = model.load_onnx(weights=False)
    total = sum(1 for _ in nodes_of(proto))
    try:
        graph = openvino.convert_model(str(model.path))
    except OPENVINO_ERRORS as error:
        text = str(error)
        unknown = [
            Uncovered(name_of(node), node.op_type, "OpenVINO has no conversion rule for this operator")
            for node in of_kinds(proto, unconverted(text))
        ]
        failed = [_refusal(RuntimeError(found["message"]), proto) for found in _FAILED.finditer(text)]
        return Coverage(total, [*unknown, *failed] or [_refusal(error, proto)])
    try:
        check_signature(proto, graph, STAGE)
    except BurnishError as error:
        return Coverage(total, [Uncovered(error.node, None, error.detail)])
    return Coverage(total, _without_kernel(graph, device))


def _without_kernel(graph: Any, device: str) -> list[Uncovered]:
    supported = openvino.Core().query_model(graph, device)
    return [
        Uncovered(node.get_friendly_name(), node.get_type_name(), f"the {device} plugin has no kernel for it")
        for node in graph.get_ordered_ops()
        if node.get_friendly_name() not in supported
    ]


def _refusal(error: Exception, proto: onnx.ModelProto) -> Uncovered:
    ours = explain(error, "converting the model to OpenVINO", stage=STAGE, model=proto)
    kind = next((node.op_type for node in nodes_of(proto) if name_of(node) == ours.node), None)
    return Uncovered(ours.node, kind, ours.detail)
