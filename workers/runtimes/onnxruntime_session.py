"""ONNX Runtime's sessions: an optimized graph saved as an engine, and an engine that is ready to run, whatever the provider."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from app.errors import SignatureMismatch, UnsupportedOperator
from workers.float_types import narrow_floats
from workers.formats.weights import load_weights, tensors
from workers.model_handle import PROTOBUF_LIMIT_BYTES, ModelHandle
from workers.onnx_errors import ORT_ERRORS, explain
from workers.onnx_files import ENTRY, EXTERNAL_TENSOR_BYTES, GRAPH_ALLOWANCE_BYTES, WEIGHTS
from workers.runtimes.base import Feeds

LEVELS = {
    "none": GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ERRORS_ONLY = 3
HALF_GROWS = 2  # how much larger an engine can be than its model: fp16 weights come back as fp32
DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    "tensor(string)": "string", "tensor(bfloat16)": "bfloat16",
}  # fmt: skip
EXCHANGED = frozenset(
    (
        "float16",
        "float32",
        "float64",
        "bool",
        "string",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)


class LoadedOnnxRuntime:
    """A session that is ready to run.

    Raises:
        UnsupportedOperator: an input or output is of a type that numpy does not have (bfloat16, 8-bit floats, 4-bit integers).
    """

    def __init__(self, session: InferenceSession):
        self._session = session
        self._names = [value.name for value in session.get_outputs()]
        self.inputs = [_described(value) for value in session.get_inputs()]
        self.outputs = [_described(value) for value in session.get_outputs()]
        for entry in (*self.inputs, *self.outputs):
            if entry["dtype"] not in EXCHANGED:
                raise UnsupportedOperator(
                    f"{entry['name']!r} is of type {entry['dtype']}, which an engine does not exchange with numpy",
                    stage="loading",
                    node=entry["name"],
                    hint="cast inside the model, so that its inputs and outputs are of a type that numpy has",
                )

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's.
            InvalidModel, OutOfMemory: the engine fails on these inputs.
        """
        with refused_run():
            values = self._session.run(self._names, feeds)
        return dict(zip(self._names, values, strict=True))

    def end_profiling(self) -> Path:
        """The file in which a session that was made with `enable_profiling` has written what it saw."""
        return Path(self._session.end_profiling())


@contextmanager
def refused_run() -> Iterator[None]:
    """Turn what a session raises for its feeds into ours. Raises as `LoadedOnnxRuntime.run`."""
    try:
        yield
    except (ValueError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument) as error:
        raise SignatureMismatch(
            f"the engine does not take these inputs: {str(error)[:500]}", stage="running"
        ) from error
    except ORT_ERRORS as error:
        raise explain(error, "running the engine", stage="running") from error


def silent_options() -> SessionOptions:
    """Options under which nothing but errors is printed."""
    options = SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    return options


def save_optimized_to(options: SessionOptions, model: ModelHandle, out: Path, level: str) -> None:
    """Let a session with these options optimize at `level` and save what it made as `ENTRY` in `out`, weights beside it if large."""
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(out / ENTRY)
    if HALF_GROWS * model.size_bytes + GRAPH_ALLOWANCE_BYTES > PROTOBUF_LIMIT_BYTES:
        entry = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{entry}_file_name", WEIGHTS)
        options.add_session_config_entry(f"{entry}_min_size_in_bytes", str(EXTERNAL_TENSOR_BYTES))


def take_weights_in(out: Path, model: ModelHandle) -> None:
    """Put weights that the saved engine in `out` still reads from the model's own files into it.

    ONNX Runtime leaves those where they lie that it did not change, unless it is told to write a file of weights.
    """
    if (out / WEIGHTS).exists():
        return
    saved = onnx.load(str(out / ENTRY), load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(saved)):
        load_weights(saved, model.path.parent)
        (out / ENTRY).write_bytes(saved.SerializeToString(deterministic=True))


def disabled_optimizers(model: ModelHandle) -> list[str]:
    """ONNX Runtime's optimizers that make a model of 8-bit floats wrong (1.32): by name, as a session takes them.

    `ReluQuantRewrite` leaves out a Relu before a QuantizeLinear whose zero point is 0, as if 0 were the least value of 8-bit
    floats; `WeightBiasQuantization` rounds biases to 32 bits with the product of scales that were made for 8-bit floats.
    """
    wrong = ["ReluQuantRewrite", "WeightBiasQuantization"]
    return wrong if "FP8" in narrow_floats(model.load_onnx(weights=False)) else []


def _described(value: Any) -> dict[str, Any]:
    kind = value.type
    return {
        "name": value.name,
        "dtype": DTYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")")),
        "shape": [dim if isinstance(dim, int) and dim >= 0 else None for dim in value.shape],
    }
