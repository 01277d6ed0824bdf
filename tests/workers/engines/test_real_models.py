"""Models that registry packages ship, through passes, presets and the runtime."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.catalog.passes import PASSES
from app.catalog.presets import cpu_preset
from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCpuParams
from app.catalog.spec import ModelFacts, PresetContext
from tests.workers.engines.networks import ArraySamples, file_model
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, save_onnx, signature_of
from workers.onnx_nodes import nodes_of
from workers.onnx_prepare import prepare
from workers.onnx_proof import open_session
from workers.runtimes import registry


def packaged(package: str, pattern: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob(pattern))


def operators(model: ModelHandle) -> dict[str, int]:
    kinds = [node.op_type for node in nodes_of(model.load_onnx(weights=False))]
    return {kind: kinds.count(kind) for kind in set(kinds)}


def speech(rate: int, windows: int = 20) -> Callable[[ModelHandle], np.ndarray]:
    """Runs a voice detector over a swelling tone with its state carried on: probabilities, then the last state."""
    size = 576 if rate == 16000 else 288
    time = np.arange(windows * size) / rate
    tone = np.sin(2 * np.pi * 220 * time) * np.linspace(0, 0.5, time.size)
    noise = np.random.default_rng(0).standard_normal(time.size) * 0.02
    audio = (tone + noise).astype(np.float32).reshape(windows, 1, size)

    def run(model: ModelHandle) -> np.ndarray:
        session, state, found = open_session(model), np.zeros((2, 1, 128), np.float32), []
        for window in audio:
            chance, state = session.run(
                None, {"input": window, "state": state, "sr": np.array(rate, np.int64)}
            )
            found.append(chance.ravel())
        return np.concatenate([*found, state.ravel()])

    return run


@pytest.fixture
def silero(tmp_path: Path) -> ModelHandle:
    """A voice detector whose whole network lies in the two branches of an If, one a sampling rate."""
    return file_model(packaged("silero_vad", "data/silero_vad.onnx"), tmp_path / "silero")


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_network_inside_an_if_survives_every_pass_that_needs_no_data(silero, rate, apply, signal):
    run = speech(rate)
    expected = run(silero)
    simple, context = apply("simplify", silero)
    assert [node.op_type for node in simple.load_onnx().graph.node if node.op_type == "If"] == ["If"]
    assert context.facts["nodes_after"] < context.facts["nodes_before"] / 2
    assert signature_of(simple.load_onnx()) == signature_of(silero.load_onnx())
    assert signal(expected, run(simple)) > 80

    dynamic, context = apply("quantize-dynamic", simple)
    assert context.facts["quantized"] == {"LSTM": 2}
    assert operators(dynamic)["DynamicQuantizeLSTM"] == 2
    assert signal(expected, run(dynamic)) > 25

    half, context = apply("to-fp16", simple)
    assert context.facts["half"]["LSTM"] == 2
    assert signal(expected, run(half)) > 40


def test_the_ifless_voice_detector_keeps_its_inner_ifs_in_order(tmp_path, apply, signal):
    model = file_model(packaged("silero_vad", "data/silero_vad_16k_op15.onnx"), tmp_path / "m")
    run = speech(16000)

    for name in ("simplify", "quantize-dynamic", "to-fp16"):
        assert signal(run(model), run(apply(name, model)[0])) > 40, name


REAL = {
    "magika": ("magika", "models/standard_v3_3/model.onnx", {"bytes": ((2048,), np.int32)}, 40),
    "detection": ("rapidocr", "models/*det*.onnx", {"x": ((3, 96, 96), np.float32)}, None),
    "recognition": ("rapidocr", "models/*rec*.onnx", {"x": ((3, 48, 160), np.float32)}, None),
    "orientation": ("rapidocr", "models/*cls*.onnx", {"x": ((3, 48, 192), np.float32)}, 25),
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_preset_brings_real_models_to_fused_int8(name, tmp_path, apply, signal):
    package, pattern, inputs, least_db = REAL[name]
    model = file_model(packaged(package, pattern), tmp_path / "m")
    rng = np.random.default_rng(0)
    arrays = {
        key: (
            rng.random((8, *shape)).astype(kind)
            if kind == np.float32
            else rng.integers(0, 256, (8, *shape)).astype(kind)
        )
        for key, (shape, kind) in inputs.items()
    }
    facts = ModelFacts("onnx", "fp32", operators(model), model.size_bytes, (), ())
    choice = cpu_preset(PresetContext(facts, "dat_1", allow_synthetic=False))
    assert [step["pass"] for step in choice.passes] == ["simplify", "quantize-static"]

    current = model
    for step in choice.passes:
        reads = ArraySamples(arrays) if PASSES[step["pass"]].inputs else None
        current, context = apply(step["pass"], current, reads, **step.get("params", {}))

    assert signature_of(current.load_onnx()) == signature_of(model.load_onnx())
    assert current.size_bytes < 0.6 * model.size_bytes
    runtime, params = registry.get("onnxruntime-cpu"), OnnxRuntimeCpuParams(threads=1)
    out = tmp_path / "engine"
    out.mkdir()
    engine = runtime.build(current, params, out)
    convolutions = context.facts["quantized"]["Conv"]
    assert engine.facts["operators"]["QLinearConv"] == convolutions
    assert engine.facts["convolutions"]["int8"] == convolutions
    feeds = {key: values[:1] for key, values in arrays.items()}
    got = runtime.load(engine, params).run(feeds)
    expected = dict(zip(got, open_session(model).run(None, feeds), strict=True))
    for key, value in got.items():
        assert value.shape == expected[key].shape
        assert np.isfinite(value).all()
        if least_db:
            assert signal(expected[key], value) > least_db


def test_lifting_constants_reaches_into_branches(silero):
    before = speech(16000)(silero)
    proto = prepare(silero.load_onnx(), "test", least_opset=11)

    assert not [
        n
        for n in nodes_of(proto)
        if n.op_type == "Constant"
        and n.output[0] not in {o.name for g in graphs(proto.graph) for o in g.output}
    ]
    names = [node.name for node in nodes_of(proto)]
    assert len(names) == len(set(names))
    assert all(names)
    onnx.checker.check_model(proto)
    after = speech(16000)(save_onnx(proto, silero.root.parent / "lifted"))
    np.testing.assert_allclose(after, before, atol=1e-6)
