"""A Keras model on PyTorch: loaded, its signature read, and made a module that takes tensors by position."""

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidModel, UnsupportedFormat
from app.text import first_line, plain
from workers.torch.exporting import LENGTHS
from workers.torch.model import TorchModel, example_inputs, sizes
from workers.torch.opened import OpenedTorch

EXPORT_HINT = "export it to ONNX where you trust it: `model.export('model.onnx', format='onnx')` in Keras 3"
BATCH = "batch"
# they mark free dimensions while outputs are followed: larger than real kernels, and no multiples of each other
_MARKS = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097)


def keras_library() -> Any:
    """Keras on PyTorch. It reads and writes no settings: its home is a place where there can be none."""
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["KERAS_HOME"] = os.devnull
    return importlib.import_module("keras")


def load(path: Path) -> Any:
    """The model of a `.keras` or `.h5` file, or of the folder of an unpacked `.keras`, for inference.

    Raises:
        InvalidModel: Keras refuses it.
    """
    keras = keras_library()
    try:
        with warnings.catch_warnings():
            # old files carry arguments that Keras takes and calls out of date
            warnings.simplefilter("ignore", UserWarning)
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # what a configuration makes Keras raise may be anything
        raise InvalidModel(
            f"Keras {keras.__version__} cannot open the model: {_sentence(error)}",
            hint=f"save it again as `.keras` with a current Keras, or {EXPORT_HINT}",
        ) from error
    return model.eval()


def opened(model: Any, declared: Mapping[str, Any], facts: Mapping[str, Any]) -> OpenedTorch:
    """The model with its signature: a free first dimension is called `batch`, others after their input.

    Free dimensions that `declared` says numbers for are fixed.

    Raises:
        InvalidModel: its inputs are not known, or it keeps state from run to run.
        UnsupportedFormat: an input is no dense tensor of numbers.
    """
    from workers.torch.keras_norm import normalize_by_torch
    from workers.torch.keras_recurrent import run_by_torch

    graph = _graph(model)
    _refuse_state(model)
    run_by_torch(model)
    normalize_by_torch(model)
    module = Positional(model, graph).eval()
    inputs = _inputs(graph, module, declared)
    network = TorchModel(module, inputs, _outputs(graph, inputs))
    layers = Counter(type(layer).__name__ for layer in model._flatten_layers(include_self=False))
    return OpenedTorch(network, {**facts, "layers": dict(sorted(layers.items()))})


class Positional(torch.nn.Module):
    """A Keras model that takes tensors by position, in the order of its inputs, and gives a tuple of tensors.

    Keras' layers read their weights from variables of their own, beside the module's parameters. Exporters, which put stand-ins
    in place of parameters, take what the layers read for constants, and Inductor folds those wrongly or not at all. So in
    inference the layers are given the module's parameters; while training they must change their own.
    """

    def __init__(self, model: Any, graph: Any):
        super().__init__()
        self.model = model
        self._structure = keras_library().tree.map_structure(lambda _: 0, graph._inputs_struct)
        parameters = model.torch_params
        self._paths = [  # of layers that share a path, PyTorch knows one alone
            (variable, variable.path)
            for variable in model.variables
            if parameters[variable.path] is variable.value
        ]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        keras = keras_library()
        given = keras.tree.pack_sequence_as(self._structure, list(tensors))
        if self.training:
            return tuple(keras.tree.flatten(self.model(given, training=True)))
        parameters = self.model.torch_params
        with keras.StatelessScope([(variable, parameters[path]) for variable, path in self._paths]):
            return tuple(keras.tree.flatten(self.model(given, training=False)))


def _graph(model: Any) -> Any:
    """The functional graph of a model. Raises InvalidModel where there is none."""
    keras = keras_library()
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if graph is None or not hasattr(graph, "_inputs_struct"):
        raise InvalidModel(
            "the model does not say what it takes: it was never built with a shape",
            node=model.name,
            hint="build it before saving: begin a Sequential with `keras.Input(shape)`, or make it a functional model",
        )
    return graph


def _refuse_state(model: Any) -> None:
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "stateful", False):
            raise InvalidModel(
                f"the layer {layer.name!r} keeps its state from run to run (`stateful=True`)",
                node=layer.name,
                hint="save the model with `stateful=False`, its states as inputs and outputs where they are needed",
            )


def _inputs(graph: Any, module: torch.nn.Module, declared: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    fixed = {entry["name"]: entry["shape"] for entry in (declared.get("signature") or {}).get("inputs", [])}
    entries = []
    for name, tensor in zip(_names(graph._inputs_struct), graph.inputs, strict=True):
        if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False) or tensor.dtype == "string":
            raise UnsupportedFormat(
                f"the input {name!r} takes no dense tensor of numbers",
                node=name,
                hint="save the network behind it",
            )
        shape = list(tensor.shape)
        if len(fixed.get(name, ())) == len(shape):
            shape = [
                told if own is None and isinstance(told, int) else own
                for own, told in zip(shape, fixed[name], strict=True)
            ]
        entries.append({"name": name, "dtype": tensor.dtype, "shape": shape})
    return _with_names(entries, module)


def _with_names(entries: Sequence[Mapping[str, Any]], module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    """Names for free dimensions: each its own, unless the model runs only where those of the same axis are equal."""

    def named(own: bool) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                **entry,
                "shape": [
                    _dimension(entry["name"], axis, dim, own) for axis, dim in enumerate(entry["shape"])
                ],
            }
            for entry in entries
        )

    alone = named(own=True)
    several = sum(None in entry["shape"][1:] for entry in entries) > 1
    return alone if not several or _runs(module, alone) else named(own=False)


def _dimension(name: str, axis: int, dim: int | None, own: bool) -> int | str:
    if dim is not None:
        return dim
    if axis == 0:
        return BATCH
    return f"{name}_dim{axis}" if own else f"dim{axis}"


def _runs(module: torch.nn.Module, inputs: Sequence[Mapping[str, Any]]) -> bool:
    for length in LENGTHS:
        try:
            with torch.inference_mode():
                module(*example_inputs(inputs, dims=sizes(inputs, 2, length)))
        except Exception:  # a model may raise anything; `export` says why it does not run
            continue
        return True
    return False


def _outputs(graph: Any, inputs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Names, types and shapes of what the model gives. A free dimension is called as that of the input that it equals."""
    free = list(dict.fromkeys(dim for entry in inputs for dim in entry["shape"] if isinstance(dim, str)))
    runs = [dict(zip(free, marks, strict=False)) for marks in (_MARKS, _MARKS[::-1])]
    followed = [_follow(graph, inputs, marks) for marks in runs]
    names = _unique(_names(graph._outputs_struct), {entry["name"] for entry in inputs})
    found = []
    for number, (name, tensor) in enumerate(zip(names, graph.outputs, strict=True)):
        first, second = (shapes[number] for shapes in followed)
        shape = [
            _equal_to(runs, (one, other)) or (BATCH if axis == 0 and one is None else None)
            if one != other or one is None
            else one
            for axis, (one, other) in enumerate(zip(first, second, strict=True))
        ]
        found.append({"name": name, "dtype": tensor.dtype, "shape": shape})
    return tuple(found)


def _follow(
    graph: Any, inputs: Sequence[Mapping[str, Any]], marks: Mapping[str, int]
) -> list[tuple[int | None, ...]]:
    """The outputs' shapes where free dimensions of the inputs are `marks`; as the graph has them where it cannot be followed."""
    keras = keras_library()
    given = [
        keras.KerasTensor([marks.get(dim, dim) for dim in entry["shape"]], entry["dtype"]) for entry in inputs
    ]
    try:
        outputs = graph.compute_output_spec(keras.tree.pack_sequence_as(graph._inputs_struct, given))
    except Exception:  # a layer may raise anything on a size that it does not take
        outputs = graph.outputs
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]


def _equal_to(runs: Sequence[Mapping[str, int]], sizes_: tuple[int | None, ...]) -> str | None:
    """The free dimension whose marks these are."""
    names = runs[0]
    return next((name for name in names if tuple(marks[name] for marks in runs) == sizes_), None)


def _names(structure: Any) -> list[str]:
    """A name for each tensor of a structure: its key in a dictionary, or the layer that it comes from."""
    found = []
    for path, tensor in keras_library().tree.flatten_with_path(structure):
        keyed = any(isinstance(part, str) for part in path)
        found.append("_".join(map(str, path)) if keyed else str(tensor._keras_history.operation.name))
    return found


def _unique(names: Iterable[str], taken: set[str]) -> list[str]:
    """The names, those that are taken already with a number behind."""
    chosen: list[str] = []
    for name in names:
        number, free = 0, name
        while free in taken or free in chosen:
            number += 1
            free = f"{name}_{number}"
        chosen.append(free)
    return chosen


def _sentence(error: BaseException) -> str:
    line = first_line(str(error))
    return plain(f"{type(error).__name__}: {line}", 400)
