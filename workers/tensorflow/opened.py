"""A SavedModel in TensorFlow: what its graph may hold, its signature, run, and turned into ONNX by tf2onnx."""

import importlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidModel, UnsafeModel, UnsupportedFormat, UnsupportedOperator
from app.text import first_line, plain
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.runtimes.base import Feeds

OPSET = 18  # the newest that tf2onnx 1.17 writes
BATCH = "batch"
_SERVING = "serving_default"
_SAVE_HINT = "save it again: `tf.saved_model.save(model, folder)`, or `model.export(folder)` in Keras 3"
# what a graph that computes needs not: Python, files, other machines. Saving and restoring its own variables is allowed.
_UNSAFE = (
    "PyFunc",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "Reader",
    "Dataset",
    "FileSystem",
    "Rpc",
    "Debug",
)


def tensorflow_library() -> Any:
    """TensorFlow on the CPU, quiet. Keras, which comes with it, reads and writes no settings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_HOME"] = os.devnull
    tensorflow = importlib.import_module("tensorflow")
    tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow


def opened(folder: Path) -> "OpenedTensorFlow":
    """The serving signature of a SavedModel.

    Raises:
        UnsafeModel: its graph calls Python or touches files.
        UnsupportedFormat: it has no signature, several, or one of other things than dense tensors of numbers.
        InvalidModel: it is damaged.
    """
    tensorflow = tensorflow_library()
    operators = _check_graph(folder)
    try:
        model = tensorflow.saved_model.load(str(folder))
    except MemoryError:
        raise
    except Exception as error:  # TensorFlow raises errors of its own and Python's
        raise InvalidModel(
            f"TensorFlow cannot open the model: {_sentence(error)}", hint=_SAVE_HINT
        ) from error
    return OpenedTensorFlow(
        model,
        {
            "producer": f"tensorflow {tensorflow.__version__}",
            "framework_operators": dict(sorted(operators.items())),
        },
    )


class OpenedTensorFlow:
    """See `formats.base.OpenedModel`; `facts` name the graph's own operators."""

    def __init__(self, model: Any, facts: Mapping[str, Any]):
        self._model = model  # its variables live as long as it does
        self._function = _signature(model)
        given = dict(sorted(self._function.structured_input_signature[1].items()))  # saved without an order
        found = self._function.structured_outputs
        several = sum(None in _dims(name, spec)[1:] for name, spec in given.items()) > 1
        self.inputs = [
            {"name": name, "dtype": _dtype(name, spec), "shape": _named(name, _dims(name, spec), several)}
            for name, spec in given.items()
        ]
        self.outputs = [
            {
                "name": name,
                "dtype": _dtype(name, spec),
                "shape": [
                    BATCH if axis == 0 and dim is None else dim for axis, dim in enumerate(_dims(name, spec))
                ],
            }
            for name, spec in sorted(found.items())
        ]
        self.facts = dict(facts)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name. Raises SignatureMismatch where the feeds do not fit."""
        from workers.torch.opened import fitting

        tensorflow = tensorflow_library()
        tensors = [tensorflow.constant(value) for value in fitting(self.inputs, feeds)]
        found = self._function(**self._by_name(tensors))
        return {entry["name"]: found[entry["name"]].numpy() for entry in self.outputs}

    def to_torch(self) -> Any:
        """Raises UnsupportedFormat: there is no way from TensorFlow to PyTorch but by ONNX."""
        raise UnsupportedFormat(
            "a SavedModel becomes no PyTorch module", hint="take the ONNX that it becomes"
        )

    def to_onnx(self, out: Path) -> ModelHandle:
        """By tf2onnx. Raises UnsupportedOperator, InvalidModel."""
        tensorflow = tensorflow_library()
        convert = importlib.import_module("tf2onnx.convert")
        given = self._function.structured_input_signature[1]
        specs = [
            tensorflow.TensorSpec(given[entry["name"]].shape, given[entry["name"]].dtype, entry["name"])
            for entry in self.inputs
        ]

        @tensorflow.function(input_signature=specs)  # type: ignore[untyped-decorator]
        def serve(*tensors: Any) -> Any:
            return self._function(**self._by_name(tensors))

        try:
            with _quiet():
                model, _ = convert.from_function(serve, specs, opset=OPSET)
        except MemoryError:
            raise
        except Exception as error:  # tf2onnx raises whatever an operator's converter meets
            raise UnsupportedOperator(
                f"tf2onnx cannot convert the model: {_sentence(error)}", stage="converting", hint=_SAVE_HINT
            ) from error
        _refuse_foreign(model)
        for values, entries in ((model.graph.input, self.inputs), (model.graph.output, self.outputs)):
            _set_signature(values, entries)
        return save_onnx(model, out)

    def _by_name(self, tensors: Sequence[Any]) -> dict[str, Any]:
        return {entry["name"]: tensor for entry, tensor in zip(self.inputs, tensors, strict=True)}


def _check_graph(folder: Path) -> Counter[str]:
    """How often each operator stands in the graph and its functions.

    Raises:
        UnsafeModel: one of them calls Python or touches files.
        InvalidModel: the file is no SavedModel.
    """
    decoding = importlib.import_module("google.protobuf.message").DecodeError
    saved = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except decoding as error:
        raise InvalidModel(f"`saved_model.pb` cannot be read: {error}", hint=_SAVE_HINT) from error
    operators: Counter[str] = Counter()
    for meta in saved.meta_graphs:
        functions = (function.node_def for function in meta.graph_def.library.function)
        for node in (node for nodes in (meta.graph_def.node, *functions) for node in nodes):
            if any(part in node.op for part in _UNSAFE):
                raise UnsafeModel(
                    f"the graph holds {node.op} ({node.name!r}), which calls Python or touches files",
                    node=node.name,
                    hint="save the network alone, without reading its data",
                )
            operators[node.op] += 1
    return operators


def _signature(model: Any) -> Any:
    names = [name for name in model.signatures if not name.startswith("_")]
    if _SERVING not in names and len(names) != 1:
        raise UnsupportedFormat(
            f"the model has several signatures and none is called {_SERVING!r}: {sorted(names)}"
            if names
            else "the model has no signature, so nothing says what it takes",
            hint="save it with `signatures={'serving_default': function}`",
        )
    return model.signatures[_SERVING if _SERVING in names else names[0]]


def _dims(name: str, spec: Any) -> list[int | None]:
    if spec.shape.rank is None:
        raise UnsupportedFormat(
            f"the number of dimensions of {name!r} is not known",
            node=name,
            hint="save it with shapes of known rank",
        )
    return list(spec.shape.as_list())


def _dtype(name: str, spec: Any) -> str:
    kind = spec.dtype.as_numpy_dtype
    if spec.dtype.name in ("string", "variant", "resource"):
        raise UnsupportedFormat(
            f"{name!r} is {spec.dtype.name}, no tensor of numbers",
            node=name,
            hint="save the network behind it",
        )
    return str(np.dtype(kind).name)


def _named(name: str, dims: Sequence[int | None], several: bool) -> list[int | str]:
    """Free dimensions: `batch`, then after their input, or after their axis where several inputs have such."""
    return [
        dim if dim is not None else BATCH if axis == 0 else f"dim{axis}" if several else f"{name}_dim{axis}"
        for axis, dim in enumerate(dims)
    ]


def _refuse_foreign(model: Any) -> None:
    """Raises UnsupportedOperator for what tf2onnx left as TensorFlow has it, which it does without an error."""
    import onnx

    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            raise UnsupportedOperator(
                f"TensorFlow's {node.op_type} ({node.name!r}) has no ONNX form",
                stage="converting",
                node=node.name,
                hint="replace it in the model by operators that ONNX has",
            )


def _set_signature(values: Any, entries: Sequence[Mapping[str, Any]]) -> None:
    """Give inputs or outputs the order and the dimensions of `entries`."""
    by_name = {value.name: value for value in values}
    if set(by_name) != {entry["name"] for entry in entries}:
        raise InvalidModel(f"tf2onnx made {sorted(by_name)} of {sorted(entry['name'] for entry in entries)}")
    ordered = []
    for entry in entries:
        value = by_name[entry["name"]]
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for dim in entry["shape"]:
            added = shape.dim.add()
            if isinstance(dim, int):
                added.dim_value = dim
            elif dim is not None:
                added.dim_param = dim
        ordered.append(type(value).FromString(value.SerializeToString()))
    del values[:]
    values.extend(ordered)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tf2onnx's report of its own progress."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _sentence(error: BaseException) -> str:
    line = first_line(str(error))
    return plain(f"{type(error).__name__}: {line}", 400)
