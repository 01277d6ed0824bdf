"""A program as ONNX, by the exporter that follows its graph (https://docs.pytorch.org/docs/stable/onnx_export.html)."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export import ExportedProgram

from app.errors import BurnishError, InvalidModel, UnsupportedOperator
from app.text import plain
from workers.formats.onnx import dtype_name
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, save_onnx
from workers.torch.noise import quiet
from workers.torch.place import place_of
from workers.torch.recurrent import recurrent_whole
from workers.torch.strides import plain_strides

STAGE = "converting"
_NODE = re.compile(
    r"Error when translating node %(?P<name>\w+) :.*?target=torch\.ops\.(?P<target>[\w.]+)\]", re.DOTALL
)
_NO_FUNCTION = re.compile(r"Failure message: (?P<reason>[^\n]+)")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_EXPORTERS_OWN = "pkg."  # metadata: paths of source files on the machine that exported, among other things
_HIDDEN = "hidden"  # a domain
_LOUD = "torch.onnx._internal.exporter._registration"  # says at each export that torchvision is not there

Entry = Mapping[str, Any]


def program_to_onnx(
    program: ExportedProgram,
    inputs: Sequence[Entry],
    outputs: Sequence[Entry],
    out: Path,
    *,
    keep_batch_norms: bool = False,
) -> ModelHandle:
    """Write a program into the folder `out` as ONNX with the names, and the names of free dimensions, of the signature.

    The opset is the exporter's choice (18 or later). Weights go into a file of their own where protobuf's limit demands it.
    `keep_batch_norms`: they stay operators, where the exporter would fold them into the convolutions before them.

    Raises:
        UnsupportedOperator: an operator has no form in ONNX; `node` is the operator and its place in the network's source.
        InvalidModel: the signature is not that of the program.
    """
    names = [entry["name"] for entry in inputs], [entry["name"] for entry in outputs]
    model = _export(program, *names, keep_batch_norms)
    _rename_dimensions(model, inputs)
    declare(model.graph.input, inputs, "input")
    declare(model.graph.output, outputs, "output")
    strip(model)
    return save_onnx(model, out)


def _export(
    program: ExportedProgram, inputs: list[str], outputs: list[str], keep_batch_norms: bool
) -> onnx.ModelProto:
    try:
        with _quiet(), recurrent_whole(), plain_strides(program):
            exported: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
                optimize=not keep_batch_norms,
            )
            if keep_batch_norms:
                with _disguised(exported.model, "BatchNormalization"):
                    exported.optimize()
            _keep_apart(exported.model, {*inputs, *outputs})
            model: onnx.ModelProto = exported.model_proto
    except (BurnishError, MemoryError):
        raise
    except Exception as error:  # the exporter wraps what its functions raise, and they may raise anything
        raise _explain(error, program) from error
    return model


@contextmanager
def _disguised(model: Any, kind: str) -> Iterator[None]:
    """Hide operators from the exporter's rules, which know them by name, in a domain that no rule is for."""
    hidden = [node for node in model.graph.all_nodes() if node.op_type == kind and node.domain == ""]
    for node in hidden:
        node.domain = _HIDDEN
    yield
    for node in hidden:
        node.domain = ""
    model.opset_imports.pop(_HIDDEN, None)


def _keep_apart(model: Any, ends: set[str]) -> None:
    """Rename values inside that are called as an input or output is: the exporter calls them after operators (`conv2d`)."""
    outer = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    inner = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*inner, *model.graph.initializers.values()):
        if value.name in ends and id(value) not in outer:
            value.name = f"{value.name}_inside"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of libraries that are not there."""
    logger = logging.getLogger(_LOUD)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)


def _explain(error: BaseException, program: ExportedProgram) -> UnsupportedOperator:
    texts = list(_chain(error))
    for text in texts:
        if found := _NODE.search(text):
            operator = found["target"]
            place = place_of(program, found["name"], operator)
            reasons = [match["reason"] for other in texts if (match := _NO_FUNCTION.search(other))]
            return UnsupportedOperator(
                f"{operator} has no form in ONNX" + (f": {plain(reasons[0], 300)}" if reasons else ""),
                stage=STAGE,
                node=f"{operator} at {place}" if place else operator,
                hint="compute it by operators that ONNX has, or leave it out of the network; "
                "a runtime that runs PyTorch programs needs no ONNX",
            )
    first = next((line for text in texts for line in text.splitlines() if line.strip()), type(error).__name__)
    return UnsupportedOperator(
        f"the program cannot be written as ONNX: {type(error).__name__}: {plain(first, 400)}",
        stage=STAGE,
        hint="a runtime that runs PyTorch programs needs no ONNX",
    )


def _chain(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of those that caused it, the causes first."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    yield from reversed(texts)


def _rename_dimensions(model: onnx.ModelProto, inputs: Sequence[Entry]) -> None:
    """Call free dimensions everywhere what the signature calls them; torch's symbols (`s31`) stay for those without names."""
    names: dict[str, str] = {}
    for value, entry in zip(model.graph.input, inputs, strict=False):
        for dim, declared in zip(value.type.tensor_type.shape.dim, entry["shape"], strict=False):
            if isinstance(declared, str) and dim.dim_param:
                names.setdefault(dim.dim_param, declared)
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = _SYMBOL.sub(lambda symbol: names.get(symbol[0], symbol[0]), dim.dim_param)


def declare(values: Any, entries: Sequence[Entry], what: str) -> None:
    """Write the signature's shapes; names and types are the exporter's, and must be the signature's."""
    found = [value.name for value in values]
    if found != [entry["name"] for entry in entries]:
        raise InvalidModel(
            f"the program has the {what}s {found}, the signature {[entry['name'] for entry in entries]}",
            stage=STAGE,
            hint="declare what the network takes and gives, in its order",
        )
    for value, entry in zip(values, entries, strict=True):
        tensor = value.type.tensor_type
        kind, rank = dtype_name(tensor.elem_type), len(tensor.shape.dim)
        if kind != entry["dtype"] or rank != len(entry["shape"]):
            raise InvalidModel(
                f"{what} {value.name!r} is {kind} with {rank} dimensions, declared were {entry['dtype']} {entry['shape']}",
                stage=STAGE,
                param=value.name,
            )
        for dim, declared in zip(tensor.shape.dim, entry["shape"], strict=True):
            if isinstance(declared, int):
                dim.dim_value = declared
            elif declared is not None:
                dim.dim_param = declared
            else:
                dim.Clear()


def strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter noted for itself, so that the same network gives the same bytes on every machine."""
    holders = [model, model.graph, *model.functions]
    for graph in graphs(model.graph):
        holders += [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for function in model.functions:
        holders += list(function.node)
    for holder in holders:
        kept = [entry for entry in holder.metadata_props if not entry.key.startswith(_EXPORTERS_OWN)]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)
