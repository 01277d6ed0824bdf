"""Pruned networks run on every runtime of this machine with the answers that they had, and build for TensorRT for RTX."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.catalog.formats import way
from app.catalog.runtimes import RUNTIMES
from tests.workers.surgery.cutting import answers, lifted, some_units, without
from tests.workers.surgery.test_channels_zoo import LARGE, Bert
from workers import runtimes
from workers.conversion import convert, open_model
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.runtimes.base import Engine
from workers.surgery.channels import couple
from workers.surgery.written import write
from workers.torch.model import TorchModel, example_inputs, to_array

SHUFFLED = "shufflenetv2"


def pruned(name: str) -> TorchModel:
    torch.manual_seed(0)
    model = (
        lifted(LARGE[name](), 3, 224, 224) if name == SHUFFLED else lifted(Bert("sdpa"), 12, dtype="int64")
    )
    coupling = couple(model)
    return without(model, coupling, some_units(coupling, 0.4, seed=3))


def engine(model: TorchModel, runtime: str, folder: Path) -> Engine:
    program = folder / "program"
    program.mkdir()
    write(model, program / "model.pt2")
    handle = ModelHandle(program, "model.pt2", "torch-export", tree_digest(program))
    if (to := way(handle.format, RUNTIMES[runtime].formats)) is not None:
        (folder / "converted").mkdir()
        handle, _ = convert(open_model(handle), to, folder / "converted", 0)
    (folder / "engine").mkdir()
    spec = RUNTIMES[runtime]
    return runtimes.registry.alone(runtime).build(
        handle, spec.baseline_params(spec.params()), folder / "engine"
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu", "torch-eager"])
@pytest.mark.parametrize("name", [SHUFFLED, "bert"])
def test_runs_with_the_answers_that_it_had(name: str, runtime: str, tmp_path: Path):
    model = pruned(name)
    spec = RUNTIMES[runtime]
    loaded = runtimes.registry.alone(runtime).load(
        engine(model, runtime, tmp_path), spec.baseline_params(spec.params())
    )
    values = example_inputs(model.inputs)
    feeds = {entry["name"]: to_array(value) for entry, value in zip(model.inputs, values, strict=True)}

    np.testing.assert_allclose(loaded.run(feeds)["y0"], answers(model)[0].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SHUFFLED, "bert"])
def test_builds_for_tensorrt_for_rtx(name: str, tmp_path: Path):
    built = engine(pruned(name), "tensorrt-rtx", tmp_path)

    assert (built.root / built.entry).stat().st_size > 10_000
