"""What must hold of a model before the tools open it that trust what they read: names, numbers, functions."""

from collections.abc import Iterable, Iterator

import onnx

from app.errors import InvalidModel
from app.text import is_plain
from workers.onnx_files import graphs, opset_of

MOST_AXES = 64  # numpy's own bound
_MOST_NAME_CHARS = 1024
# of inputs and outputs, as `app.models.schemas.Signature` shows them
_MOST_VALUES = 1000
_MOST_SHOWN_AXES = 32
_MOST_SHOWN_CHARS = 500
_MOST_NODES = 1_000_000
_MOST_DOMAINS = 100
_MOST_FUNCTIONS = 10_000
_MOST_OPERATORS = 1000  # kinds of them
_MOST_INLINED_NODES = 1_000_000
_MOST_CALLS = 100  # of functions, one inside another
_EXPORT_AGAIN = "export the model again with a current exporter"
FunctionId = tuple[str, str, str]


def check_bounds(model: onnx.ModelProto) -> None:
    """Hold a model to what no real one passes.

    Raises:
        InvalidModel: a number or a name is out of bounds, or functions call themselves or unfold without end.
    """
    _check_numbers(model)
    _check_names(model)
    _check_functions(model)


def _check_numbers(model: onnx.ModelProto) -> None:
    if not model.graph.output:
        raise InvalidModel("the model has no output", hint=_EXPORT_AGAIN)
    known = onnx.defs.onnx_opset_version()
    if (version := opset_of(model)) > known:
        raise InvalidModel(
            f"the model uses opset {version}; this version of Burnish knows those up to {known}",
            hint="export it with an older opset",
        )
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if not inputs:
        raise InvalidModel(
            "the model has no input: its outputs are always the same",
            hint="export the network, not its result",
        )
    for what, values in (("inputs", inputs), ("outputs", model.graph.output)):
        if len(values) > _MOST_VALUES:
            raise InvalidModel(f"the model has {len(values)} {what}; {_MOST_VALUES} are taken")
        for value in values:
            if len(value.name) > _MOST_SHOWN_CHARS:
                raise InvalidModel(f"a name among the model's {what} is too long: {value.name[:100]!r}")
            _check_axes(value, _MOST_SHOWN_AXES)
    if len(model.opset_import) > _MOST_DOMAINS:
        raise InvalidModel(f"the model imports {len(model.opset_import)} sets of operators")
    names = [value.name for value in model.graph.output]
    if len(set(names)) < len(names):
        raise InvalidModel("the model lists an output twice", hint=_EXPORT_AGAIN)
    if len(model.functions) > _MOST_FUNCTIONS:
        raise InvalidModel(f"the model holds {len(model.functions)} functions; {_MOST_FUNCTIONS} are taken")
    nodes = 0
    for graph in graphs(model.graph):
        nodes += len(graph.node)
        if nodes > _MOST_NODES:
            raise InvalidModel(f"the model holds more than {_MOST_NODES:,} nodes")
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_axes(value, MOST_AXES)


def _check_axes(value: onnx.ValueInfoProto, most: int) -> None:
    if (axes := len(value.type.tensor_type.shape.dim)) > most:
        raise InvalidModel(f"{value.name[:100]!r} has {axes} dimensions; {most} are taken")


def _check_names(model: onnx.ModelProto) -> None:
    """Names go to terminals, logs and file formats; no exporter makes such ones."""
    for name in _names(model):
        if isinstance(name, bytes):  # protobuf's way to say that it is no text
            raise InvalidModel(f"a name in the model is no UTF-8: {name[:100]!r}")
        if len(name) > _MOST_NAME_CHARS or not is_plain(name):
            what = "is too long" if len(name) > _MOST_NAME_CHARS else "holds control characters"
            raise InvalidModel(
                f"a name in the model {what}: {name[:100]!r}", hint="rename it before exporting the model"
            )
    kinds = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    if len(kinds) > _MOST_OPERATORS:
        raise InvalidModel(f"the model uses {len(kinds)} kinds of operators; {_MOST_OPERATORS} are taken")


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    for entry in model.opset_import:
        yield entry.domain
    for graph in graphs(model.graph):
        yield graph.name
        yield from _names_of_nodes(graph.node)
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            for dim in value.type.tensor_type.shape.dim:
                yield dim.dim_param
        for tensor in graph.initializer:
            yield tensor.name
            yield from _places(tensor)
        for sparse in graph.sparse_initializer:
            for tensor in (sparse.values, sparse.indices):
                yield tensor.name
                yield from _places(tensor)
    for function in model.functions:
        yield from (function.name, function.domain, function.overload)
        yield from (*function.input, *function.output, *function.attribute)
        yield from (entry.domain for entry in function.opset_import)
        yield from _names_of_nodes(function.node)


def _names_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield node.name
        yield node.op_type
        yield node.domain
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            yield attribute.name
            for tensor in (attribute.t, *attribute.tensors):
                yield tensor.name
                yield from _places(tensor)
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                for tensor in (attribute.sparse_tensor.values, attribute.sparse_tensor.indices):
                    yield tensor.name
                    yield from _places(tensor)


def _places(tensor: onnx.TensorProto) -> Iterator[str | bytes]:
    for entry in tensor.external_data:
        yield entry.key
        yield entry.value


def _check_functions(model: onnx.ModelProto) -> None:
    """Inlining follows calls; a function that calls itself would end the process, one that doubles and doubles, its memory."""
    if not model.functions:
        return
    bodies = {_id(one.domain, one.name, one.overload): list(_calls(one.node)) for one in model.functions}
    known: dict[FunctionId, tuple[int, int]] = {}

    def measured(function: FunctionId, callers: tuple[FunctionId, ...]) -> tuple[int, int]:
        """The nodes that a call becomes, and how deep it goes."""
        if function not in bodies:
            return 1, 0
        if function in callers or len(callers) > _MOST_CALLS:
            raise InvalidModel(f"function {function[1][:100]!r} of the model calls itself")
        if function not in known:
            within = [measured(called, (*callers, function)) for called in bodies[function]]
            known[function] = (
                sum(size for size, _ in within),
                1 + max((depth for _, depth in within), default=0),
            )
        if len(callers) + known[function][1] > _MOST_CALLS:
            raise InvalidModel(f"the model's functions call each other more than {_MOST_CALLS} deep")
        return known[function]

    total = sum(measured(called, ())[0] for graph in graphs(model.graph) for called in _own_calls(graph.node))
    total += sum(measured(function, ())[0] for function in bodies)
    if total > _MOST_INLINED_NODES:
        raise InvalidModel(f"the model's functions unfold to more than {_MOST_INLINED_NODES:,} nodes")


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[FunctionId]:
    """What these nodes and those inside them call."""
    holder = onnx.GraphProto(node=nodes)
    for graph in graphs(holder):
        yield from _own_calls(graph.node)


def _own_calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[FunctionId]:
    return (_id(node.domain, node.op_type, node.overload) for node in nodes)


def _id(domain: str, name: str, overload: str) -> FunctionId:
    return ("" if domain == "ai.onnx" else domain, name, overload)
