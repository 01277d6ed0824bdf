"""What ONNX, its tools and ONNX Runtime say when they refuse a model, in the contract's words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from app.errors import BurnishError, InvalidModel, OutOfMemory, UnsupportedOperator

ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.ModelRequiresCompilation,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
ONNX_ERRORS: tuple[type[Exception], ...] = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
_NODE = (
    re.compile(r"node with name '(?P<node>[^']+)'"),
    re.compile(r"node \((?P<node>[^)]+)\)"),
    re.compile(r"In Node, \(\"(?P<node>[^\"]+)\""),
    re.compile(r"node name: (?P<node>[^\s,)]+)", re.IGNORECASE),
    re.compile(r"Name:'(?P<node>[^']+)'"),
)
_UNKNOWN_OPERATOR = (
    re.compile(r"Could not find an implementation for (?P<operator>[\w.:]+(?:\(\d+\))?)"),
    re.compile(r"(?P<operator>[\w.:]+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"No Op registered for (?P<operator>\w+)"),
    re.compile(r"No opset import for domain '?(?P<operator>[\w.]+)"),
)
_FOLDER = re.compile(r"(?:/[^\s/:'\"]+)+/(?=[^\s/:'\"])")  # names of nodes look like paths too: see `explain`
_LONGEST = 600


@contextmanager
def refused(doing: str, *, stage: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Turn the libraries' errors inside the block into ours; `doing` says what was tried, as in "loading the model".

    Raises:
        UnsupportedOperator: the runtime does not know an operator, or has no kernel for its types.
        InvalidModel: anything else that is wrong with the model.
        OutOfMemory: an allocation failed.
    """
    try:
        yield
    except BurnishError:
        raise
    except (*ORT_ERRORS, *ONNX_ERRORS) as error:
        raise explain(error, doing, stage=stage, hint=hint) from error


def explain(
    error: Exception, doing: str, *, stage: str | None = None, hint: str | None = None
) -> BurnishError:
    """Our error for a library's."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip()
    text = without_folders(text)
    node = next((found["node"] for pattern in _NODE if (found := pattern.search(text))), None)
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
    if "Failed to allocate memory" in text or "bad_alloc" in text:
        return OutOfMemory(f"{doing}: {short}", stage=stage, node=node)
    for pattern in _UNKNOWN_OPERATOR:
        if found := pattern.search(text):
            return UnsupportedOperator(
                f"{doing}: the runtime does not know {found['operator']}: {short}",
                stage=stage,
                node=node,
                hint=hint or "export with standard operators, or with an opset that this runtime knows",
            )
    return InvalidModel(f"{doing}: {short}", stage=stage, node=node, hint=hint)


def without_folders(text: str) -> str:
    """The text with paths to files here cut to the files' names: where a worker keeps things is nobody's matter."""
    return _FOLDER.sub(lambda found: "" if Path(found[0]).is_dir() else found[0], text)
