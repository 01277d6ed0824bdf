"""Keras models as people save them, and what holds for every one that was opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from workers.formats.base import Source
from workers.formats.keras import Keras
from workers.torch.keras import keras_library
from workers.torch.opened import OpenedTorch

LEAST_SQNR_DB = 90
keras = keras_library()
layers = keras.layers


def convolutional() -> Any:
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.MaxPooling2D(2, padding="same")(layers.SeparableConv2D(12, 3)(x))
    return keras.Model(
        image, layers.Dense(5, activation="softmax", name="probabilities")(layers.Flatten()(x))
    )


def residual() -> Any:
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    x = layers.Dense(8, activation="gelu")(left) + right * 2.0
    normed = layers.LayerNormalization(name="normed")(layers.Add()([x, left]))
    return keras.Model({"left": left, "right": right}, [layers.Dense(3, name="scores")(x), normed])


def recurrent() -> Any:
    sequence = keras.Input((None, 4), name="sequence")
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(sequence)
    x = layers.GRU(4, return_sequences=True, bias_initializer="normal")(x)
    x = layers.LSTM(3, go_backwards=True, return_sequences=True, use_bias=False)(x)
    return keras.Model(sequence, layers.Dense(2, name="scores")(layers.GRU(3, use_bias=False)(x)))


def attentive() -> Any:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16)(tokens)
    x = layers.LayerNormalization(name="encoded")(x + layers.MultiHeadAttention(2, 8)(x, x))
    return keras.Model(tokens, [x, layers.Dense(3, name="scores")(layers.GlobalAveragePooling1D()(x))])


def upscaling() -> Any:
    """An output is called as the exporter calls the convolution before it."""
    image = keras.Input((None, None, 3), name="image")
    x = layers.UpSampling2D(2)(layers.Conv2D(4, 3, strides=2, padding="same", name="first")(image))
    return keras.Model(image, layers.Conv2D(1, 1, name="conv2d")(x))


def sequential() -> Any:
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(2)]
    )


def mobile() -> Any:
    return keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3))


SIGNATURES: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "cnn": (convolutional, {"image": ["batch", 16, 16, 3]}, {"probabilities": ["batch", 5]}),
    "residual": (
        residual, {"left": ["batch", 8], "right": ["batch", 8]}, {"scores": ["batch", 3], "normed": ["batch", 8]},
    ),
    "rnn": (recurrent, {"sequence": ["batch", "sequence_dim1", 4]}, {"scores": ["batch", 2]}),
    "attention": (
        attentive,
        {"tokens": ["batch", "tokens_dim1"]},
        {"encoded": ["batch", "tokens_dim1", 16], "scores": ["batch", 3]},
    ),
    "upscaling": (
        upscaling, {"image": ["batch", "image_dim1", "image_dim2", 3]}, {"conv2d": ["batch", None, None, 1]},
    ),
}  # fmt: skip


def seed() -> None:
    """The same weights each time. A test begins with it."""
    keras.utils.set_random_seed(7)
    keras.backend.clear_session()


def saved(model: Any, path: Path) -> Path:
    """A model's file, with batch norms that have seen something."""
    rng = np.random.default_rng(7)
    for weight in model.weights:
        if "moving" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    model.save(path)
    return path


def opened(path: Path, **declared: Any) -> OpenedTorch:
    assert Keras().recognizes(path)
    return Keras().open(Source(path.parent, path.name, declared))


def feeds_of(model: OpenedTorch, **sizes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    feeds = {}
    for entry in model.inputs:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in entry["shape"]]
        values = rng.integers(0, 50, shape) if "int" in entry["dtype"] else rng.standard_normal(shape)
        feeds[entry["name"]] = values.astype(entry["dtype"])
    return feeds


def follows(model: OpenedTorch, folder: Path, *sizes: dict[str, int]) -> None:
    """The ONNX of a model has its signature and gives what it gives, at every size."""
    folder.mkdir()
    session = onnxruntime.InferenceSession(model.to_onnx(folder).path, providers=["CPUExecutionProvider"])
    for mine, theirs in ((model.inputs, session.get_inputs()), (model.outputs, session.get_outputs())):
        for entry, value in zip(mine, theirs, strict=True):
            # ONNX Runtime calls dimensions without a name by a formula
            shape = [own and other for own, other in zip(entry["shape"], value.shape, strict=True)]
            assert (entry["name"], entry["shape"]) == (value.name, shape)
    for size in sizes:
        feeds = feeds_of(model, **size)
        wanted = model.run(feeds)
        for value, got in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            noise = np.square(wanted[value.name].astype(np.float64) - got).sum()
            signal = np.square(wanted[value.name].astype(np.float64)).sum()
            assert wanted[value.name].shape == got.shape
            assert signal > noise * 10 ** (LEAST_SQNR_DB / 10)
