"""What a library's engine inspector tells of a built engine: its layers, their precision, tactics and reformats.

The form is that of `trtexec --exportLayerInfo` with detailed verbosity:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from workers.tensorrt.library import Library

LISTED = 200  # layers; all are counted
_PRECISIONS = {
    "FP8": "fp8", "E4M3": "fp8", "Int8": "int8", "INT8": "int8", "BF16": "bf16", "BFloat16": "bf16", "FP16": "fp16", "Half": "fp16",
    "FP32": "fp32", "Float": "fp32", "TF32": "fp32", "Int32": "integer", "INT32": "integer", "Int64": "integer", "INT64": "integer",
    "Bool": "integer",
}  # fmt: skip


def layers(library: Library, engine: Any) -> dict[str, Any]:
    """The layer report of a loaded engine, as `report` gives it; {} where the library tells nothing."""
    told = information(library, engine)
    return report(told) if told else {}


def information(library: Library, engine: Any, context: Any = None) -> dict[str, Any]:
    """What the library itself tells of a loaded engine; with a context, at the shapes that it last ran."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    text = inspector.get_engine_information(library.trt.LayerInformationFormat.JSON)
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def report(told: Mapping[str, Any]) -> dict[str, Any]:
    """{layers, by_precision {precision: layers}, by_type {type: layers}, reformats, listed: [{name, type, precision, tactic}]}.

    A layer's precision is that of its first input. With less than detailed verbosity layers are names alone, of type and
    precision "unknown".
    """
    found = [layer_of(one) for one in told.get("Layers", [])]
    return {
        "layers": len(found),
        "by_precision": dict(Counter(one["precision"] for one in found)),
        "by_type": dict(Counter(one["type"] for one in found)),
        "reformats": sum(_is_reformat(one) for one in found),
        "listed": found[:LISTED],
    }


def sentences(told: Mapping[str, Any]) -> list[str]:
    """What a layer report says of speed, in sentences."""
    if not told.get("layers"):
        return []
    kinds = ", ".join(f"{count} in {kind}" for kind, count in sorted(told["by_precision"].items()))
    texts = [f"The engine has {told['layers']} layers after fusion: {kinds}."]
    if told["reformats"]:
        texts.append(
            f"{told['reformats']} of them only bring values into another layout or type, between layers that want it so."
        )
    return texts


def layer_of(one: Any) -> dict[str, Any]:
    """{name, type, precision, tactic} of one of the library's layers."""
    if not isinstance(one, Mapping):
        return {"name": str(one), "type": "unknown", "precision": "unknown", "tactic": None}
    return {
        "name": str(one.get("Name", "")),
        "type": str(one.get("LayerType", "unknown")),
        "precision": _precision(one),
        "tactic": one.get("TacticName") or one.get("TacticValue"),
    }


def _precision(layer: Mapping[str, Any]) -> str:
    for side in ("Inputs", "Outputs"):
        for tensor in layer.get(side) or []:
            text = str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))
            for mark, name in _PRECISIONS.items():
                if mark in text:
                    return name
    return "unknown"


def _is_reformat(layer: Mapping[str, Any]) -> bool:
    return layer["type"] in ("Reformat", "NoOp") or "Reformatting" in layer["name"]
