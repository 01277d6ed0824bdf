"""From the rows of a profile to the layers of the model that was uploaded.

Two steps. `with_sources`: a row's `sources` become operations of the model that the engine was built from, for which its graph is held
against that model's (`lineage.py`); both must be at hand. `layers_of`: those are followed on, through the models that passes and
conversions left in between, to the uploaded one. Where some of these are not given names must do, which lead less far: what passes
on ONNX renamed is then lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import onnx

from workers.model_handle import ModelHandle
from workers.profiling.lineage import Graph, lineage
from workers.profiling.onnx_lineage import onnx_graph
from workers.profiling.recorded import Row
from workers.profiling.torch_origin import OnnxNames, Place, ProgramNames, call_named, places, products_of
from workers.runtimes.base import Engine

ONNX, IR, PROGRAM = "onnx", "openvino", "torch-export"
ONNX_ENGINES = (".onnx", ".ort")
IR_ENGINE = ".xml"
PLAN = ".plan"

Layers = Mapping[str, tuple[str, ...]]


def with_sources(rows: Sequence[Row], engine: Engine, source: ModelHandle | None) -> list[Row]:
    """Rows with the operations of the model that the engine was built from, as `onnx_labels.labelled` or its IR names them.

    What TensorRT says of its layers is held against the model's names. Rows of other engines stay as they are.
    """
    if source is None or source.format != ONNX:
        return list(rows)
    if engine.path.suffix in ONNX_ENGINES:
        from workers.profiling.onnxruntime_profile import engine_graph

        found = lineage(onnx_graph(engine_graph(engine)), onnx_graph(source.load_onnx(weights=False)))
        return [row if row.sources else replace(row, sources=found.get(row.name, ())) for row in rows]
    if engine.path.suffix == IR_ENGINE:
        nodes = _hop(_Stage(ModelHandle(engine.root, engine.entry, IR, "")), _Stage(source))
        return [replace(row, sources=_together(nodes, row.sources)) for row in rows]
    if engine.path.suffix == PLAN:
        names = set(_Stage(source).names)
        return [replace(row, sources=tuple(name for name in row.sources if name in names)) for row in rows]
    return list(rows)


def layers_of(source: ModelHandle, original: ModelHandle, between: Sequence[ModelHandle] = ()) -> Layers:
    """By each operation of the model that an engine was built from, the layers of the uploaded one that it computes.

    `between` are the models that it was on the way, the first change's first. Empty where source and original are one: an operation
    then goes by its own name.

    Raises:
        BurnishError: one of the models does not open.
    """
    stages = [_Stage(one) for one in _changes([original, *between, source])]
    if len(stages) == 1:
        return {}
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in stages[-1].names}
    for later, earlier in zip(stages[:0:-1], stages[-2::-1], strict=True):
        hop = _hop(later, earlier)
        found = {name: _together(hop, names) for name, names in found.items()}
    return found


def layers_by_row(rows: Sequence[Row], layers: Layers) -> list[list[str]]:
    """The uploaded model's layers of each row, in order."""
    return [
        list(dict.fromkeys(name for one in row.sources for name in layers.get(one, (one,)))) for row in rows
    ]


def _changes(models: Iterable[ModelHandle]) -> list[ModelHandle]:
    found: list[ModelHandle] = []
    for model in models:
        if not found or model.digest != found[-1].digest:
            found.append(model)
    return found


def _together(names: Layers, of: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in of for name in names.get(one, ())))


class _Stage:
    """A model on the way, opened late and once."""

    def __init__(self, model: ModelHandle):
        self.model = model

    @cached_property
    def proto(self) -> onnx.ModelProto:
        return self.model.load_onnx(weights=False)

    @cached_property
    def graph(self) -> Graph:
        return onnx_graph(self.proto)

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Of an exported graph: where its nodes come from."""
        return places(self.proto)

    @cached_property
    def program(self) -> ProgramNames:
        from workers.profiling.torch_calls import names_of
        from workers.torch.program import load_program

        program = load_program(self.model.path)
        known = names_of(program)
        by_call = {call: layer for call, (layer, _) in known.layers.items()}
        weights = {name for names in known.weights.values() for name in names}
        calls = tuple(node.name for node in program.program.graph.nodes if node.op == "call_function")
        return ProgramNames(frozenset({*by_call.values(), *weights}), by_call, calls)

    @property
    def names(self) -> Iterable[str]:
        """What rows may call its operations."""
        if self.model.format == ONNX:
            return [one.label for one in self.graph.all()]
        if self.model.format == IR:
            return [one.label for one in self.against(frozenset()).all()]
        return [*self.program.layers, *self.program.calls] if self.model.format == PROGRAM else []

    def against(self, values: frozenset[str]) -> Graph:
        """The graph; an IR's with these names of values where it has them."""
        if self.model.format != IR:
            return self.graph
        from workers.profiling.openvino_lineage import openvino_graph

        return openvino_graph(self.model.path, values)


def _hop(later: _Stage, earlier: _Stage) -> Layers:
    """By what rows call operations of a model, the operations of the one before it."""
    kinds = later.model.format, earlier.model.format
    if kinds[1] == ONNX and kinds[0] in (ONNX, IR):
        if kinds[0] == ONNX and _exported_anew(later, earlier):
            known, products = OnnxNames(earlier.proto), products_of(one.call for one in later.places.values())
            return {name: known.of(place, products) for name, place in later.places.items()}
        values = frozenset(name for one in earlier.graph.all() for name in one.outputs)
        return lineage(later.against(values), earlier.graph)
    if kinds[0] == PROGRAM and kinds[1] == ONNX:
        known, products = OnnxNames(earlier.proto), products_of(later.program.calls)
        return {name: known.of(Place(name, name), products) for name in later.names}
    if kinds[1] == PROGRAM:
        if kinds[0] == ONNX:
            return _exported(later, earlier.program)
        return {name: earlier.program.nearest(_call(name, kinds[0])) for name in later.names}
    if kinds[0] == ONNX and later.places:
        return {name: ((place.module or place.call),) for name, place in later.places.items()}
    return {name: (name,) for name in later.names}


def _exported(later: _Stage, program: ProgramNames) -> Layers:
    """Of an ONNX model that a program became: by what the exporter noted, and by names where a pass has dropped that."""
    return {
        name: program.of(later.places[name]) if name in later.places else program.nearest(call_named(name))
        for name in later.names
    }


def _exported_anew(later: _Stage, earlier: _Stage) -> bool:
    """Whether an ONNX model was a network of PyTorch since: the exporter's notes are others, as are the names of values then."""
    return any(earlier.places.get(name) != place for name, place in later.places.items())


def _call(name: str, kind: str) -> str:
    return call_named(name) if kind == IR else name
