"""What surgery left, as an engine of a runtime: converted where the runtime takes another format, built, run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from app.catalog.formats import way
from app.catalog.runtimes import RUNTIMES
from workers import runtimes
from workers.conversion import convert, open_model
from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine

HERE = ("onnxruntime-cpu", "openvino-cpu", "torch-eager", "torch-inductor-cpu")  # run on any machine
ELSEWHERE = "tensorrt-rtx"  # builds on any machine


def in_format(model: ModelHandle, taken: frozenset[str], folder: Path) -> ModelHandle:
    """A model in one of these formats; a conversion is held to what the model gives."""
    if (to := way(model.format, taken)) is None:
        return model
    made, facts = convert(open_model(model), to, _new(folder))
    assert facts["checked"], facts
    return made


def built(model: ModelHandle, runtime: str, folder: Path) -> Engine:
    """An engine in full precision."""
    spec = RUNTIMES[runtime]
    held = in_format(model, spec.formats, folder)
    return runtimes.registry.alone(runtime).build(held, spec.baseline_params(spec.params()), _new(folder))


def run_on(
    model: ModelHandle, runtime: str, feeds: Mapping[str, np.ndarray], folder: Path
) -> Mapping[str, np.ndarray]:
    """What its engine gives."""
    spec = RUNTIMES[runtime]
    engine = built(model, runtime, folder)
    loaded = runtimes.registry.alone(runtime).load(engine, spec.baseline_params(spec.params()))
    return loaded.run(dict(feeds))


def _new(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    made = folder / str(len(list(folder.iterdir())))
    made.mkdir()
    return made
