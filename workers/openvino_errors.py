"""What OpenVINO says when it refuses a model, in the contract's words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from app.errors import BurnishError, InvalidModel, OutOfMemory, UnsupportedOperator
from workers.onnx_errors import without_folders
from workers.onnx_nodes import nodes_of
from workers.openvino_library import openvino

OPENVINO_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    openvino.frontend.GeneralFailure,
    openvino.frontend.InitializationFailure,
    openvino.frontend.NotImplementedFailure,
    openvino.frontend.OpConversionFailure,
    openvino.frontend.OpValidationFailure,
)
_UNCONVERTED = re.compile(r"No conversion rule found for operations: (?P<operators>[^\n]+)")
_ONNX_NODE = re.compile(r"<Node\((?P<operator>\w+)\): (?P<outputs>[^>]*)>")
_OPENVINO_NODE = re.compile(r"with friendly_name '(?P<node>[^']+)'")
_PLACES = re.compile(
    r"^(?:Exception from |Check '.*' failed at )(?:\S+/)?src/\S+:\d+:\s*", re.MULTILINE
)  # of OpenVINO's own source
_UNSUPPORTED = re.compile(
    r"not supported|unsupported|not implemented|isn't supported|doesn't support", re.IGNORECASE
)
_LONGEST = 600


@contextmanager
def refused(doing: str, *, stage: str | None = None, model: onnx.ModelProto | None = None) -> Iterator[None]:
    """Turn OpenVINO's errors inside the block into ours; `model` (weights not needed) gives nodes their names.

    Raises:
        UnsupportedOperator: OpenVINO has no rule or kernel for an operator.
        InvalidModel: anything else that is wrong with the model.
        OutOfMemory: an allocation failed.
    """
    try:
        yield
    except BurnishError:
        raise
    except OPENVINO_ERRORS as error:
        raise explain(error, doing, stage=stage, model=model) from error


def explain(
    error: Exception, doing: str, *, stage: str | None = None, model: onnx.ModelProto | None = None
) -> BurnishError:
    """Our error for one of OpenVINO's."""
    text = without_folders(_PLACES.sub("", str(error)).strip())
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
    if "bad_alloc" in text or "Failed to allocate" in text:
        return OutOfMemory(f"{doing}: {short}", stage=stage)
    if operators := unconverted(text):
        nodes = [] if model is None else [name_of(node) for node in of_kinds(model, operators)]
        return UnsupportedOperator(
            f"{doing}: OpenVINO does not know {', '.join(operators)}"
            + (f" (nodes {', '.join(nodes[:5])})" if nodes else ""),
            stage=stage,
            node=nodes[0] if nodes else None,
            hint="export with standard operators, or choose an ONNX Runtime target",
        )
    node = _node(text, model)
    if _UNSUPPORTED.search(text):
        return UnsupportedOperator(
            f"{doing}: {short}",
            stage=stage,
            node=node,
            hint="leave or change this node, or choose an ONNX Runtime target",
        )
    return InvalidModel(f"{doing}: {short}", stage=stage, node=node)


def unconverted(text: str) -> list[str]:
    """The operators that a conversion error names: `org.example.Frobnicate`, or `StringNormalizer` of the standard."""
    found = _UNCONVERTED.search(text)
    return [] if found is None else [re.sub(r"-\d+$", "", name.strip()) for name in found[1].split(",")]


def of_kinds(model: onnx.ModelProto, operators: list[str]) -> list[onnx.NodeProto]:
    """The nodes of these operators, as conversion errors spell them."""
    wanted = set(operators)
    return [node for node in nodes_of(model) if {node.op_type, f"{node.domain}.{node.op_type}"} & wanted]


def name_of(node: onnx.NodeProto) -> str:
    """A node's name; its first output where it has none, as OpenVINO calls it."""
    return node.name or next(iter(node.output), node.op_type)


def _node(text: str, model: onnx.ModelProto | None) -> str | None:
    if model is not None and (found := _ONNX_NODE.search(text)):
        outputs = {name.strip() for name in found["outputs"].split(",")}
        for node in nodes_of(model):
            if node.op_type == found["operator"] and outputs & {node.name, *node.output}:
                return name_of(node)
    inner = _OPENVINO_NODE.search(text)
    return inner["node"] if inner else None
