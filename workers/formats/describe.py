"""What an upload that is no ONNX is and can become: opened, converted on trial, and compared. Runs in a child."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from app.catalog.formats import FORMATS
from app.catalog.spec import PROTOBUF_LIMIT_BYTES
from app.errors import BurnishError
from workers.conversion import convert, open_model
from workers.coverage import coverage
from workers.formats import onnx, registry
from workers.formats.base import OpenedModel, Source
from workers.formats.onnx_structure import of_onnx
from workers.model_handle import ModelHandle

log = structlog.get_logger(__name__)

PROGRAM = "torch-export"
OPENVINO = "openvino"  # a format that passes leave and nobody uploads
UNKNOWN: dict[str, Any] = {
    "opset": None,
    "flops": None,
    "flops_note": "",
    "operators": {},
    "control_flow": {},
    "domains": {},
}


def describe(
    name: str, source: Source, ask: Iterable[str], scratch: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """{signature, facts, structure} of a model in a framework's own format.

    Facts are those of the ONNX that it becomes, the format's own, `coverage` by the runtimes to `ask` (see `workers.coverage`) and `conversions`: for
    each format that it can become what `convert` says, or the `problem` that it cannot. The structure is that of the program, on which
    surgery works, where it is or becomes one; else of the ONNX that it becomes.

    Raises:
        BurnishError: it cannot be opened, or becomes nothing: then what speaks against ONNX, or else the first.
    """
    report("opening")
    opened = registry.get(name).open(source)
    size = sum(file.stat().st_size for file in source.root.rglob("*") if file.is_file())
    conversions: dict[str, Any] = {}
    runtimes: dict[str, Any] = {}
    network: dict[str, Any] = UNKNOWN
    forms: dict[str, Path] = {}
    failures: list[BurnishError] = []
    for to in sorted(FORMATS[name].converts_to):
        report(f"converting to {to}")
        try:
            made, conversions[to] = convert(opened, to, _folder(scratch, to))
        except BurnishError as error:
            failures.append(error)
            conversions[to] = {"problem": error.problem()}
            continue
        runtimes |= coverage(made, ask, scratch)
        forms[to] = made.path
        if to == onnx.FORMAT:
            network = onnx.describe(made.root, made.entry)["facts"]
    if len(failures) == len(conversions):
        raise failures[0]
    facts = {
        "precision": "fp32",
        "warnings": [],
        **network,
        **opened.facts,
        "producer": opened.facts.get("producer", name),
        "size_bytes": size,
        "over_2gb": size > PROTOBUF_LIMIT_BYTES,
        "entry": source.entry,
        "conversions": conversions,
        "coverage": runtimes,
    }
    return {"signature": _signature(opened), "facts": facts, "structure": _structure(opened, forms)}


def _structure(opened: OpenedModel, forms: Mapping[str, Path]) -> dict[str, Any] | None:
    """Of the first form that can be counted: the program, the ONNX. A network is not refused because none can."""
    program = getattr(opened, "program", None)
    if program is not None or PROGRAM in forms:
        from workers.surgery.program_structure import of_program
        from workers.torch.program import load_program

        try:
            return of_program(program or load_program(forms[PROGRAM]))
        except BurnishError as error:
            log.warning("structure_not_counted", problem=error.problem())
    if (graph := forms.get(onnx.FORMAT)) is None:
        return None
    return of_onnx(onnx.read(graph.parent, graph.name))


def describe_made(model: ModelHandle, precision: str) -> dict[str, Any]:
    """{signature, facts} of a model that passes or conversions left; `precision` is what the recipe made of it.

    Raises:
        BurnishError: it cannot be opened.
    """
    if model.format == onnx.FORMAT:
        return onnx.describe(model.root, model.entry)
    if model.format == OPENVINO:
        from workers.openvino_model import signature

        described, own = signature(model), {}
    else:
        opened = open_model(model)
        described, own = _signature(opened), dict(opened.facts)
    size = model.size_bytes
    facts = {
        **UNKNOWN,
        "warnings": [],
        **own,
        "precision": precision,
        "size_bytes": size,
        "over_2gb": size > PROTOBUF_LIMIT_BYTES,
        "entry": model.entry,
    }
    return {"signature": described, "facts": facts}


def _folder(scratch: Path, to: str) -> Path:
    folder = scratch / f"trial-{to}"
    folder.mkdir(parents=True)
    return folder


def _signature(opened: OpenedModel) -> dict[str, Any]:
    return {
        "inputs": [dict(entry) for entry in opened.inputs],
        "outputs": [dict(entry) for entry in opened.outputs],
    }
