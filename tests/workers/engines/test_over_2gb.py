"""Models whose weights pass protobuf's 2 GB, through every pass that says it can; about 12 GB of memory each."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from app.catalog.passes import PASSES
from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCpuParams
from app.catalog.spec import PROTOBUF_LIMIT_BYTES
from benchmarks.large import WIDTH, write_large
from tests.workers.engines.networks import ArraySamples
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.onnx_proof import open_session
from workers.runtimes import registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARAMS = {"set-shapes": {"dimensions": {"n": 4}}}  # of passes that do nothing without being told what


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """Matrix products with 2.25 GB of weights."""
    path = write_large(tmp_path_factory.mktemp("written"))
    handle = save_onnx(onnx.load(path), tmp_path_factory.mktemp("large"))
    assert handle.size_bytes > PROTOBUF_LIMIT_BYTES
    return handle


@pytest.mark.parametrize("name", sorted(name for name, spec in PASSES.items() if spec.over_2gb))
def test_passes_take_large_models(name, large, apply, signal):
    x = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)
    model, _ = apply(name, large, ArraySamples({"x": x}), **PARAMS.get(name, {}))

    onnx.checker.check_model(str(model.path))
    assert signal(open_session(large).run(None, {"x": x})[0], open_session(model).run(None, {"x": x})[0]) > 10


def test_engines_of_large_models_keep_their_weights_beside_them(large, tmp_path: Path):
    check_engine(large, large, tmp_path, rtol=1e-3, atol=1e-2)
    assert (tmp_path / "model.onnx.data").stat().st_size > PROTOBUF_LIMIT_BYTES


def test_a_small_model_may_make_a_large_engine(large, apply, tmp_path: Path):
    half, _ = apply("to-fp16", large)
    assert half.size_bytes < PROTOBUF_LIMIT_BYTES
    check_engine(half, large, tmp_path, rtol=1e-2, atol=1e-1)


def check_engine(model: ModelHandle, original: ModelHandle, out: Path, *, rtol: float, atol: float) -> None:
    """The engine of a model gives what the original gives."""
    runtime, params = registry.get("onnxruntime-cpu"), OnnxRuntimeCpuParams()
    engine = runtime.build(model, params, out)
    x = np.ones((1, WIDTH), np.float32)
    np.testing.assert_allclose(
        runtime.load(engine, params).run({"x": x})["y"],
        open_session(original).run(None, {"x": x})[0],
        rtol=rtol,
        atol=atol,
    )
