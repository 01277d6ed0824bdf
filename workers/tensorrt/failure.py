"""Errors of our own from what a library told: cause, node where one is named, what to do."""

import re
from collections.abc import Iterable

from app.errors import (
    BurnishError,
    InvalidModel,
    InvalidParams,
    OutOfMemory,
    Unavailable,
    UnsupportedOperator,
)

_LAYER = re.compile(r"\bI\w+Layer ([^:\s]+)\s*:")
_TARGETS = re.compile(r"Cannot compile for target\(s\) (.+?), because .*datatypes: (\w+)")
_TYPES = {"fp8_e4m3": "FP8", "b16": "BF16", "fp4_e2m1": "FP4"}
LONGEST_REASON = 600  # characters


def build_failure(complaints: list[str], names: Iterable[str], runtime: str) -> BurnishError:
    """The error of a build that gave no engine. `names` are those of the model's nodes.

    The first complaint that is known, or names a node, or else the last one, is the cause: later ones follow from it.
    """
    known = sorted((name for name in names if name), key=len, reverse=True)
    for text in complaints:
        if (error := _of_a_kind(text)) is not None:
            return error
    named = [(text, node) for text in complaints if (node := _node(text, known)) is not None]
    if named:
        text, node = named[0]
        return InvalidModel(
            f"{runtime} parsed the model, and cannot build {node!r}: {text[:LONGEST_REASON]}",
            stage="building",
            node=node,
            hint="change what the node asks for, or choose another target",
        )
    cause = complaints[-1] if complaints else "it gave no reason"
    return InvalidModel(
        f"{runtime} could not build an engine: {cause[:LONGEST_REASON]}",
        stage="building",
        hint="the job's log holds all that it said; another target may take the model",
    )


def parse_failure(node: str | None, operator: str | None, reason: str, stage: str) -> BurnishError:
    """The error of a node that the parser refuses."""
    what = f"{operator or 'a node'} {node!r}" if node else operator or "the model"
    if is_unsupported(reason):
        return UnsupportedOperator(
            f"TensorRT's parser does not take {what}: {reason[:LONGEST_REASON]}",
            stage=stage,
            node=node,
            hint="export the model without this operator, or choose another target",
        )
    return InvalidModel(
        f"TensorRT's parser refuses {what}: {reason[:LONGEST_REASON]}",
        stage=stage,
        node=node,
        hint="check the node's inputs and attributes against the operator's definition, or choose another target",
    )


def is_unsupported(reason: str) -> bool:
    """Whether a parser's reason is that it lacks something, not that the model is wrong."""
    marks = (
        "Plugin not found",
        "not supported",
        "unsupported",
        "Unsupported",
        "no importer",
        "Failed to convert",
    )
    return any(mark in reason for mark in marks)


def _of_a_kind(text: str) -> BurnishError | None:
    if (found := _TARGETS.search(text)) is not None:
        kind = _TYPES.get(found.group(2), found.group(2))
        return InvalidParams(
            f"the model computes in {kind}, which {found.group(1)} has no instructions for",
            stage="building",
            param="compute_capabilities",
            hint=f"build for later GPUs, or leave out what makes the model {kind}",
        )
    if "within workspace limit" in text:
        return InvalidParams(
            "no kernel works within the workspace limit",
            stage="building",
            param="workspace_mib",
            hint="raise workspace_mib, or leave it out",
        )
    if "libnvinfer_lean" in text:
        return Unavailable(
            "a version-compatible engine needs the lean runtime, which is not installed here",
            stage="building",
            param="version_compatible",
            hint="install the lean runtime of the same version, or set version_compatible to false",
            retryable=False,
        )
    if "out of memory" in text.lower() or "OutOfMemory" in text:
        return OutOfMemory(
            f"the GPU's memory did not suffice to build the engine: {text[:LONGEST_REASON]}",
            stage="building",
            hint="lower max_batch, max_length or the profiles' largest shapes, or set workspace_mib",
        )
    return None


def _node(text: str, names: list[str]) -> str | None:
    """The node that a complaint names: as a layer's name, or anywhere in it where the name is long enough to be no word."""
    for found in _LAYER.finditer(text):
        if found.group(1) in names:
            return found.group(1)
    return next(
        (name for name in names if len(name) > 3 and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)),
        None,
    )
