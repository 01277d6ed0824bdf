"""Which nodes of a model ONNX Runtime's CPU provider has kernels for, told for all of them at once."""

from collections import defaultdict
from functools import cache
from typing import Any

import onnx
import onnxruntime
from onnx.inliner import inline_local_functions
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from app.errors import BurnishError
from workers.model_handle import ModelHandle
from workers.onnx_errors import refused
from workers.onnx_files import opset_of
from workers.onnx_nodes import nodes_of
from workers.runtimes.base import Coverage, Uncovered

PROVIDER = "CPUExecutionProvider"
STAGE = "validating"
ERRORS_ONLY = 3


def coverage(model: ModelHandle) -> Coverage:
    """A session decides: where it can be made, everything is covered. Where not, nodes without schema or kernel are named,
    or else the node that the session names (one with a kernel, but not for its types).

    Source: the lists of schemas and kernels that ONNX Runtime itself gives (`get_all_operator_schema`, `get_all_opkernel_def`).
    """
    proto = model.load_onnx(weights=False)
    total = sum(1 for _ in nodes_of(proto))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with refused("making a session", stage=STAGE):
            onnxruntime.InferenceSession(str(model.path), options, providers=[PROVIDER])
    except BurnishError as error:
        missing = _missing(inline_local_functions(proto) if proto.functions else proto)
        kind = next(
            (node.op_type for node in nodes_of(proto) if error.node and node.name == error.node), None
        )
        return Coverage(total, missing or [Uncovered(error.node, kind, error.detail)])
    return Coverage(total, [])


def _missing(proto: onnx.ModelProto) -> list[Uncovered]:
    found = []
    for node in nodes_of(proto):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in _schemas():
            found.append(Uncovered(node.name or None, node.op_type, f"no operator {_full(node)} is known"))
        elif not _has_kernel(domain, node.op_type, opset_of(proto, domain)):
            reason = f"{_full(node)} has no kernel on the CPU at opset {opset_of(proto, domain)}"
            found.append(Uncovered(node.name or None, node.op_type, reason))
    return found


def _has_kernel(domain: str, operator: str, opset: int) -> bool:
    """Functions have none, and are unfolded into operators that have: what has no kernel at any opset may be one."""
    spans = _kernels().get((domain, operator))
    if spans is None:
        schema: Any = onnx.defs.get_schema(operator) if domain == "" and onnx.defs.has(operator) else None
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)
    return any(first <= opset <= last for first, last in spans)


@cache
def _schemas() -> frozenset[tuple[str, str]]:
    return frozenset((one.domain, one.name) for one in ort_state.get_all_operator_schema())


@cache
def _kernels() -> dict[tuple[str, str], list[tuple[int, int]]]:
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for one in ort_state.get_all_opkernel_def():
        if one.provider == PROVIDER:
            spans[one.domain, one.op_name].append(one.version_range)
    return dict(spans)


def _full(node: Any) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type)
