"""How much of a model OpenVINO can run, told without building an engine."""

import re
from typing import Any

from app.errors import BurnishError
from workers.model_handle import ModelHandle
from workers.onnx_nodes import nodes_of
from workers.openvino_errors import OPENVINO_ERRORS, explain, name_of, of_kinds, unconverted
from workers.openvino_library import openvino
from workers.openvino_model import FORMAT, read

STAGE = "validating"
_FAILED = re.compile(r"^-- .+ with a message:\n(?P<message>(?:.+\n?)+)", re.MULTILINE)


def covered(model: ModelHandle, device: str = "CPU") -> dict[str, Any]:
    """{operators, supported, share, unsupported: [{node, operator, reason}]} of an ONNX model or an IR.

    `operators` counts nodes, those inside control flow included. All operators without a conversion rule are told at
    once; what conversion does not reach for them counts as supported.
    """
    if model.format == FORMAT:
        graph = read(model, STAGE)
        return _answer(len(graph.get_ops()), _without_kernel(graph, device))
    proto = model.load_onnx(weights=False)
    total = sum(1 for _ in nodes_of(proto))
    try:
        graph = openvino.convert_model(str(model.path))
    except OPENVINO_ERRORS as error:
        text = str(error)
        unknown = [
            _entry(name_of(node), node.op_type, "OpenVINO has no conversion rule for this operator")
            for node in of_kinds(proto, unconverted(text))
        ]
        failed = [
            _refusal(explain(RuntimeError(found["message"]), "converting", stage=STAGE, model=proto), proto)
            for found in _FAILED.finditer(text)
        ]
        whole = [] if unknown or failed else [_refusal(explain(error, "converting", stage=STAGE), proto)]
        return _answer(total, unknown + failed + whole)
    return _answer(total, _without_kernel(graph, device))


def _without_kernel(graph: Any, device: str) -> list[dict[str, Any]]:
    supported = openvino.Core().query_model(graph, device)
    return [
        _entry(node.get_friendly_name(), node.get_type_name(), f"the {device} plugin has no kernel for it")
        for node in graph.get_ordered_ops()
        if node.get_friendly_name() not in supported
    ]


def _refusal(error: BurnishError, proto: Any) -> dict[str, Any]:
    kind = next((node.op_type for node in nodes_of(proto) if name_of(node) == error.node), None)
    return _entry(error.node, kind, error.detail)


def _entry(node: str | None, operator: str | None, reason: str) -> dict[str, Any]:
    return {"node": node, "operator": operator, "reason": reason}


def _answer(total: int, unsupported: list[dict[str, Any]]) -> dict[str, Any]:
    supported = max(0, total - len(unsupported))
    return {
        "operators": total,
        "supported": supported,
        "share": round(supported / total, 4) if total else 1.0,
        "unsupported": unsupported,
    }
