"""Which nodes a quantizing pass took, which it left, and why: the facts that explain the speed later."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx

from app.errors import InvalidParams
from workers.onnx_files import graphs

LISTED = 10  # nodes named per reason; all are counted


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those inside control flow included."""
    for graph in graphs(model.graph):
        yield from graph.node


def check_names(model: onnx.ModelProto, names: Iterable[str], param: str) -> None:
    """Raises InvalidParams where a name is no node's: an exclusion that excludes nothing is a mistake."""
    known = sorted({node.name for node in nodes_of(model) if node.name})
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise InvalidParams(
                f"the model has no node called {name!r} at this step",
                param=param,
                hint=f"close names: {', '.join(close)}" if close else f"it has {', '.join(known[:20])}",
            )


def outcome(
    model: onnx.ModelProto,
    operators: Iterable[str],
    is_left: Callable[[onnx.NodeProto], bool],
    reason: Callable[[onnx.NodeProto], str],
) -> dict[str, Any]:
    """{quantized: {operator: nodes}, left_out: [{operator, reason, count, nodes}]}.

    Of the nodes of `model` (as it was before) whose operator is one of `operators`; the first few are named.
    """
    wanted = frozenset(operators)
    taken: Counter[str] = Counter()
    left: dict[tuple[str, str], list[str]] = {}
    for node in nodes_of(model):
        if node.op_type not in wanted:
            continue
        if is_left(node):
            left.setdefault((node.op_type, reason(node)), []).append(node.name)
        else:
            taken[node.op_type] += 1
    return {
        "quantized": dict(taken),
        "left_out": [
            {"operator": kind, "reason": why, "count": len(names), "nodes": names[:LISTED]}
            for (kind, why), names in left.items()
        ],
    }


@contextmanager
def quieted() -> Iterator[None]:
    """Keep libraries' warnings about themselves out of the job's log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
