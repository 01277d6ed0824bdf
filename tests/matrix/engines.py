"""Write `docs/engines.md`: `python -m tests.matrix.engines`."""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError
from tests.workers.tensorrt.networks import KINDS, Exported, exported
from workers import passes, runtimes
from workers.context import PassContext
from workers.gpu import gpus
from workers.model_handle import ModelHandle
from workers.onnx_proof import open_session
from workers.runtimes.base import AheadOfTime

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
SHAPES = ("static", "dynamic")
TURNS = 5
YARDSTICK = (
    "onnxruntime-cpu"  # builds the fp32 model of every row on every machine: what other builds are told in
)
Chosen = tuple[str, dict[str, Any]] | None
CPU: dict[str, Chosen] = {
    "fp32": None,
    "fp16": ("to-fp16", {}),
    "bf16 weights": ("to-bf16", {}),
    "int8": ("quantize-static", {}),
    "fp8": ("quantize-fp8", {}),
}
GPU: dict[str, Chosen] = {
    "fp32": None,
    "fp16": ("to-fp16", {}),
    "bf16": ("to-bf16", {"compute": "bf16"}),
    "int8": ("quantize-static", {"form": "tensorrt"}),
    "int8 + fp16": ("quantize-static", {"form": "tensorrt", "rest": "fp16"}),
    "fp8": ("quantize-fp8", {}),
    "fp8 + fp16": ("quantize-fp8", {"rest": "fp16"}),
}
TARGETS: dict[str, tuple[str, dict[str, Any], dict[str, Chosen]]] = {
    "onnxruntime-cpu": ("onnxruntime-cpu", {"threads": 1}, CPU),
    "openvino-cpu": ("openvino-cpu", {"threads": 1}, CPU),
    "tensorrt-rtx:sm89": ("tensorrt-rtx", {"compute_capabilities": (89,)}, GPU),
    "tensorrt-rtx:sm86+sm120": ("tensorrt-rtx", {"compute_capabilities": (86, 120)}, GPU),
}
WHAT = {
    "cnn": "three convolutions with a residual and a linear head",
    "lstm": "an LSTM over eight steps and a linear head",
    "encoder": "one layer of a transformer's encoder and a linear head",
}


@dataclass(frozen=True)
class Row:
    """One engine: its size and the time of its build beside those of the ONNX model that was uploaded, and how far it came.

    `time_ratio`: over the time that ONNX Runtime takes to make and save its engine of the fp32 model.
    """

    size_ratio: float | None
    time_ratio: float | None
    loaded: bool
    signal_db: float | None
    where: str
    refused: str | None = None


def judge(target: str, precision: str, network: Exported, folder: Path, turns: int = TURNS) -> Row:
    """Bring a network to a precision, build its engine, and load and run it where that can be done here."""
    name, given, precisions = TARGETS[target]
    params, runtime = RUNTIMES[name].params(**given), runtimes.registry.alone(name)
    try:
        model = brought(precisions[precision], network, folder / "model")
        out = folder / "engine"
        out.mkdir(parents=True)
        engine = runtime.build(model, params, out)
        size = engine.size_bytes / network.model.size_bytes
        seconds = build_ratio(lambda out: runtime.build(model, params, out), network, folder, turns)
        if isinstance(runtime, AheadOfTime) and runtime.hindrance(params) is not None:
            return Row(size, seconds, False, None, "built on CPU; no GPU to load it")
        loaded = runtime.load(engine, params)
        x = network.x[:2]
        wanted = open_session(network.model).run(None, {"x": x})[0]
        got = loaded.run({"x": x})["y"].astype(np.float64)
    except BurnishError as error:
        return Row(None, None, False, None, "", error.code)
    return Row(size, seconds, True, signal_db(wanted, got), where(name))


def build_ratio(build: Callable[[Path], object], network: Exported, folder: Path, turns: int) -> float:
    """How many times as long a build takes as the yardstick's of the fp32 model: medians of builds in turns."""
    yardstick, params = (
        runtimes.registry.alone(YARDSTICK),
        RUNTIMES[YARDSTICK].params.model_validate({"threads": 1}),
    )

    def seconds(work: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            began = time.perf_counter()
            work(Path(out))
            return time.perf_counter() - began

    def plain(out: Path) -> object:
        return yardstick.build(network.model, params, out)

    plain_seconds, own_seconds = zip(*((seconds(plain), seconds(build)) for _ in range(turns)), strict=True)
    return float(statistics.median(own_seconds) / statistics.median(plain_seconds))


def brought(chosen: Chosen, network: Exported, out: Path) -> ModelHandle:
    """The network's model after a pass."""
    if chosen is None:
        return network.model
    out.mkdir(parents=True)
    context = PassContext(out=out, samples={"calibration": network.data})
    made: ModelHandle = passes.registry.get(chosen[0])(
        network.model, PASSES[chosen[0]].params(**chosen[1]), context
    )
    return made


def signal_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """The signal over what differs, in dB; infinite where nothing does."""
    noise = float(((wanted - got) ** 2).sum())
    return math.inf if noise == 0 else float(10 * np.log10(float((wanted**2).sum()) / noise))


def where(name: str) -> str:
    """The device that an engine of a runtime ran on here."""
    return "CPU" if RUNTIMES[name].device == "cpu" else gpus()[0]["name"]


def combinations() -> Iterator[tuple[str, str, str, str]]:
    """(target, precision, network, shapes) of every row."""
    for target, (_, _, precisions) in TARGETS.items():
        for precision in precisions:
            for kind in KINDS:
                for shapes in SHAPES:
                    yield target, precision, kind, shapes


def times(ratio: float) -> str:
    """A ratio to two figures, or to a whole number where that is more."""
    return f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:.0f}×"


def page(rows: dict[tuple[str, str, str, str], Row]) -> Iterator[str]:
    """The page, line by line."""
    yield from (
        "<!-- Written by `python -m tests.matrix.engines`. -->",
        "",
        "# Engines: what was built, loaded and run",
        "",
        "Each network was brought to a precision by the pass for it, calibrated on its own random inputs where that needs data, built, "
        "and, where the machine has the device, loaded and run beside the original. `size` is the engine's over that of the ONNX model in "
        "fp32, all files of both: of networks this small most of an engine of TensorRT for RTX is kernels. `signal` is what its outputs keep of "
        "the original's, in dB.",
        "",
        f"`build` is the time of the build over the time that ONNX Runtime takes to optimize the same network's fp32 model and save it, on one thread: "
        "that build works on every machine and every network, and is over in a few milliseconds, so that the ratios are large. The two were built in turns in "
        f"one run, {TURNS} times each, the libraries loaded before; medians were divided. The machine was in use meanwhile: the rows "
        "`onnxruntime-cpu` fp32 hold the same build against itself, and what they differ from 1 by is noise. Without a GPU nothing is timed on one, and `build` says nothing of a build by `tensorrt`, which tries kernels on the GPU.",
        "",
        "No engine of TensorRT or TensorRT for RTX has been loaded by this page's makers: [TensorRT](tensorrt.md) says what that leaves "
        "unproved. Speed is measured in jobs, never here: see [measuring](measuring.md).",
        "",
        "| target | precision | network | shapes | built | build | size | loaded | run, signal | where |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    for (target, precision, kind, shapes), row in rows.items():
        built = "yes" if row.refused is None else f"`{row.refused}`"
        ratios = ["–" if one is None else times(one) for one in (row.time_ratio, row.size_ratio)]
        run = (
            "no"
            if row.signal_db is None
            else "exact"
            if math.isinf(row.signal_db)
            else f"{row.signal_db:.0f} dB"
        )
        cells = [
            f"`{target}`",
            precision,
            kind,
            shapes,
            built,
            *ratios,
            "yes" if row.loaded else "no",
            run,
            row.where or "–",
        ]
        yield f"| {' | '.join(cells)} |"
    yield from ("", "`invalid_params`: GPUs of compute capability 8.6 have no instructions for 8-bit floats.")
    yield from ("", "The networks: " + "; ".join(f"{kind}: {text}" for kind, text in WHAT.items()) + ".")


def main() -> int:
    """Judge every row and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        networks = {
            (kind, shapes): exported(kind, shapes, root / f"{kind}-{shapes}")
            for kind in KINDS
            for shapes in SHAPES
        }
        rows = {
            one: judge(one[0], one[1], networks[one[2], one[3]], root / str(number))
            for number, one in enumerate(combinations())
        }
    PAGE.write_text("\n".join(page(rows)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
