"""Published models, as they come in packages."""

import numpy as np
import onnx
import pytest

from tests.workers.onnx_to_torch.exports import (
    decibels,
    exported_again,
    in_onnxruntime,
    packaged,
    run,
    unmoved,
)
from workers.onnx_to_torch.convert import to_module

MODELS = {
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "detection": ("rapidocr", "models/*det*.onnx"),
    "recognition": ("rapidocr", "models/*rec*.onnx"),
    "orientation": ("rapidocr", "models/*cls*.onnx"),
    "voice": ("silero_vad", "data/silero_vad.onnx"),
    "voice-16k": ("silero_vad", "data/silero_vad_16k_op15.onnx"),
}


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(str(packaged(*MODELS[name])))


def given(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"detection": (2, 3, 96, 96), "recognition": (2, 3, 48, 160), "orientation": (2, 3, 48, 192)}
    if name == "magika":
        return [rng.integers(0, 256, (2, 2048)).astype(np.int32)]
    if name in shapes:
        return [rng.random(shapes[name]).astype(np.float32)]
    audio = rng.standard_normal((2, 576)).astype(np.float32) * 0.1
    return [audio, rng.random((2, 2, 128)).astype(np.float32), np.array(16000, np.int64)]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_published_model_computes_the_same_and_trains(name):
    proto, inputs = loaded(name), given(name)
    module = to_module(proto)

    wanted = in_onnxruntime(proto, inputs)
    other = in_onnxruntime(proto, inputs, plain=False)
    for got, plain, optimized in zip(run(module, inputs), wanted, other, strict=True):
        # where a model answers noise with nearly nothing, ONNX Runtime differs from itself as much
        assert decibels(plain, got) > min(90, decibels(plain, optimized) - 6)

    left = unmoved(module, inputs)
    if name == "voice":  # the branch of the other sampling rate
        assert left == {key for key in dict(module.named_parameters()) if key.split(".")[1] == "otherwise"}
    else:
        assert left == set()


@pytest.mark.parametrize("name", ["detection", "magika", "orientation", "recognition", "voice-16k"])
def test_a_published_model_is_exported_with_a_free_batch(name):
    dims = [0, 1, None] if name == "voice-16k" else [0]
    again, expected = exported_again(to_module(loaded(name)), given(name), dims)
    for got, value in zip(again, expected, strict=True):
        assert decibels(value, got) > 90
