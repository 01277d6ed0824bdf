"""From an ONNX model to the library's network: strongly typed, so that precision is what the model says."""

from dataclasses import dataclass
from typing import Any

from app.errors import InvalidModel
from workers.model_handle import ModelHandle
from workers.onnx_nodes import nodes_of
from workers.runtimes.base import Coverage, Uncovered
from workers.tensorrt.failure import parse_failure
from workers.tensorrt.library import Library
from workers.tensorrt.logger import complaints, listen, plain

WITHOUT_NODE = "a type or an input of the model as a whole"


@dataclass(frozen=True)
class Parsed:
    """A network with what must live as long as it."""

    builder: Any
    network: Any
    parser: Any


def parse(library: Library, model: ModelHandle, heard: Any, stage: str = "building") -> Parsed:
    """The network of a model.

    Raises:
        UnsupportedOperator, InvalidModel: the parser refuses a node; the error names it.
    """
    trt = library.trt
    builder = trt.Builder(heard)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, heard)
    if parser.parse_from_file(str(model.path)):
        return Parsed(builder, network, parser)
    for error in _errors(parser):
        raise parse_failure(
            error.node_name() or None, error.node_operator() or None, plain(error.desc()), stage
        )
    told = complaints(heard)
    raise InvalidModel(
        f"TensorRT's parser cannot read the model{': ' + told[-1] if told else ''}",
        stage=stage,
        hint="check the file with the ONNX checker",
    )


def coverage(library: Library, model: ModelHandle) -> Coverage:
    """Which nodes the parser takes. Not whether an engine can be built: TopK with K=5000 parses, and fails in the build."""
    trt = library.trt
    proto = model.load_onnx(weights=False)
    total = sum(1 for _ in nodes_of(proto))
    heard = listen(library)
    builder = trt.Builder(heard)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, heard)
    if parser.supports_model_v2(model.path.read_bytes(), str(model.path)):
        return Coverage(total, [], evidence="parsed")
    found = {
        (error.node_name() or None, error.node_operator() or None, plain(error.desc()))
        for error in _errors(parser)
    }
    named = sorted(found, key=lambda one: (one[0] or "", one[1] or "", one[2]))
    return Coverage(
        total,
        [Uncovered(node, operator, reason or WITHOUT_NODE) for node, operator, reason in named]
        or [Uncovered(None, None, (complaints(heard) or [WITHOUT_NODE])[-1])],
        evidence="parsed",
    )


def _errors(parser: Any) -> list[Any]:
    return [parser.get_error(index) for index in range(parser.num_errors)]
