"""What somebody would write without Burnish: the same library calls in one script, as JSON of seconds by section.

python -m benchmarks.direct MODEL DATA.npz DONE    (DONE: `Done` as JSON, what the job did)

Engines are loaded, warmed up and timed as often as in the job, with its control, but in this one process.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

STARTED = time.perf_counter()
THREADS = 1
OPSET = 17  # the quantizer writes nodes that the network's own, older one does not know
seconds: dict[str, float] = {}


class Done(TypedDict):
    """How often the job launched each engine, on how many feeds, and how many runs it timed of each."""

    launches: int
    feeds: int
    baseline: int
    optimized: int


@contextmanager
def section(name: str) -> Iterator[None]:
    """Note how long the block took."""
    begun = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begun


def main(model_path: Path, data_path: Path, done: Done) -> None:
    """Simplify, quantize, build both engines, compare their outputs on every sample, time them."""
    with section("imports"):
        import numpy as np
        import onnx
        import onnxruntime
        import onnxslim
        from onnx import version_converter
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

    with np.load(data_path) as file:
        arrays = dict(file)
    feeds = [
        {name: values[index : index + 1] for name, values in arrays.items()}
        for index in range(len(next(iter(arrays.values()))))
    ]

    class Reader:  # whatever has `get_next` is a CalibrationDataReader
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    def session(path: Path, *, saved: Path | None = None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = THREADS
        if saved is not None:
            options.optimized_model_filepath = str(saved)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with section("pass:simplify"):
            raised = version_converter.convert_version(onnx.load(model_path), OPSET)
            onnx.save(onnxslim.slim(raised), folder / "slim.onnx")
        with section("pass:quantize-static"):
            quantize_static(
                folder / "slim.onnx",
                folder / "int8.onnx",
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        with section("build:baseline"):
            baseline = session(model_path, saved=folder / "baseline.onnx")
        with section("build"):
            optimized = session(folder / "int8.onnx", saved=folder / "optimized.onnx")
        with section("measuring"):
            for feed in feeds:
                for before, after in zip(baseline.run(None, feed), optimized.run(None, feed), strict=True):
                    float(np.square(np.subtract(before, after)).sum() / np.square(before).sum())
            for _ in range(done["launches"]):
                for path in (folder / "baseline.onnx", folder / "optimized.onnx", folder / "baseline.onnx"):
                    engine = session(path)
                    for feed in feeds[: done["feeds"]]:
                        engine.run(None, feed)
            # against the optimized engine, and twice in the control
            for engine, count in ((baseline, 3 * done["baseline"]), (optimized, done["optimized"])):
                for index in range(count):
                    engine.run(None, feeds[index % done["feeds"]])
    seconds["all"] = time.perf_counter() - STARTED
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
