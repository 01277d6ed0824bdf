"""SavedModels: found by content; opened, run and converted where the `tensorflow` extra is installed, refused elsewhere."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from app.errors import InvalidModel, SignatureMismatch, UnsafeModel, UnsupportedFormat, UnsupportedOperator
from tests.workers.formats.uploads import inspected, zipped
from workers.formats.base import Source
from workers.formats.tensorflow import TensorFlow

INSTALLED = all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx"))
with_tensorflow = pytest.mark.skipif(not INSTALLED, reason="needs the `tensorflow` extra")
EMPTY = b"\x08\x01\x12\x00"  # a SavedModel of schema version 1 with an empty graph


def laid_out(folder: Path, data: bytes = EMPTY) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(data)
    return folder


def test_a_saved_model_is_found_by_its_content(tmp_path: Path) -> None:
    laid_out(tmp_path / "exports" / "old" / "net")
    laid_out(tmp_path / "net")
    laid_out(tmp_path / "a", b"no protobuf")
    assert TensorFlow().find_entry(tmp_path) == "net/saved_model.pb"
    assert TensorFlow().find_entry(tmp_path / "net") == "saved_model.pb"
    assert TensorFlow().find_entry(tmp_path / "a") is None
    assert not TensorFlow().recognizes(tmp_path / "net" / "saved_model.pb")


@pytest.mark.skipif(INSTALLED, reason="says what holds where the `tensorflow` extra is missing")
def test_without_the_extra_it_is_said_what_to_do(tmp_path: Path) -> None:
    upload = zipped(
        tmp_path / "upload", [("net/saved_model.pb", EMPTY), ("net/variables/variables.index", b"x")]
    )
    with pytest.raises(UnsupportedFormat, match="no tensorflow and no tf2onnx") as error:
        inspected(upload)
    assert "burnish[tensorflow]" in (error.value.hint or "")
    assert "tf2onnx.convert" in (error.value.hint or "")


def loaded() -> Any:
    """TensorFlow as workers load it, which leaves no settings behind."""
    from workers.tensorflow.opened import tensorflow_library

    return tensorflow_library()


def saved(function: Any, folder: Path, *specs: Any, **variables: Any) -> Source:
    """A SavedModel of one function."""
    tf = loaded()
    module = tf.Module()
    for name, values in variables.items():
        setattr(module, name, values)  # what a module does not hold is not saved
    module.serve = tf.function(function, input_signature=[tf.TensorSpec(*spec) for spec in specs])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    entry = TensorFlow().find_entry(folder)
    assert entry == "saved_model.pb"
    return Source(folder, entry)


@with_tensorflow
def test_a_network_keeps_its_names_and_values_as_onnx(tmp_path: Path) -> None:
    tf = loaded()

    kernel = np.random.default_rng(3).standard_normal((3, 3, 3, 8)).astype(np.float32)
    held = tf.Variable(kernel)

    def network(image: Any, scale: Any) -> dict[str, Any]:
        maps = tf.nn.relu(tf.nn.conv2d(image, held, 2, "SAME"))
        return {"scores": tf.reduce_mean(maps, [1, 2]) * scale, "maps": maps}

    specs = (([None, None, 16, 3], "float32", "image"), ([None, 8], "float32", "scale"))
    model = TensorFlow().open(saved(network, tmp_path / "net", *specs, held=held))
    assert model.inputs == [
        {"name": "image", "dtype": "float32", "shape": ["batch", "image_dim1", 16, 3]},
        {"name": "scale", "dtype": "float32", "shape": ["batch", 8]},
    ]
    assert [(entry["name"], entry["shape"]) for entry in model.outputs] == [
        ("maps", ["batch", None, 8, 8]), ("scores", ["batch", 8]),
    ]  # fmt: skip
    (tmp_path / "onnx").mkdir()
    session = onnxruntime.InferenceSession(
        model.to_onnx(tmp_path / "onnx").path, providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in session.get_inputs()] == ["image", "scale"]
    assert [value.shape for value in session.get_inputs()] == [["batch", "image_dim1", 16, 3], ["batch", 8]]
    for batch, height in ((1, 16), (3, 20)):
        rng = np.random.default_rng(batch)
        feeds = {
            "image": rng.standard_normal((batch, height, 16, 3)).astype(np.float32),
            "scale": rng.standard_normal((batch, 8)).astype(np.float32),
        }
        wanted = model.run(feeds)
        for name, got in zip(["maps", "scores"], session.run(None, feeds), strict=True):
            np.testing.assert_allclose(got, wanted[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(SignatureMismatch):
        model.run({"image": feeds["image"]})
    with pytest.raises(UnsupportedFormat):
        model.to_torch()


@with_tensorflow
def test_an_upload_is_inspected_whole(tmp_path: Path) -> None:
    tf = loaded()

    held = tf.Variable(np.ones((4, 2), np.float32))
    folder = saved(lambda x: {"y": x @ held}, tmp_path / "net", ([None, 4], "float32", "x"), held=held).root
    members = [
        (f"net/{path.relative_to(folder)}", path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    ]
    found = inspected(zipped(tmp_path / "upload", members))
    assert found["format"] == "tensorflow"
    assert found["signature"]["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}]
    assert found["facts"]["conversions"]["onnx"]["checked"]
    assert found["facts"]["operators"] == {"MatMul": 1}


@with_tensorflow
def test_a_graph_that_touches_files_is_never_run(tmp_path: Path) -> None:
    tf = loaded()

    mark = tmp_path / "ran"

    def network(x: Any) -> Any:
        tf.io.write_file(str(mark), "x")
        return x * 2.0

    source = saved(network, tmp_path / "net", ([None, 4], "float32", "x"))
    with pytest.raises(UnsafeModel, match="WriteFile"):
        TensorFlow().open(source)
    assert not mark.exists()
    tf.saved_model.load(str(tmp_path / "net")).signatures["serving_default"](x=tf.zeros((1, 4)))
    assert mark.exists()  # it would have


@with_tensorflow
def test_a_graph_that_calls_python_is_refused(tmp_path: Path) -> None:
    tf = loaded()

    def network(x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), (None, 4))

    source = saved(network, tmp_path / "net", ([None, 4], "float32", "x"))
    with pytest.raises(UnsafeModel, match="PyFunc"):
        TensorFlow().open(source)


@with_tensorflow
def test_text_is_refused(tmp_path: Path) -> None:
    tf = loaded()

    source = saved(tf.strings.length, tmp_path / "net", ([None], "string", "words"))
    with pytest.raises(UnsupportedFormat, match="words"):
        TensorFlow().open(source)


@with_tensorflow
def test_an_operator_without_a_form_in_onnx_is_named(tmp_path: Path) -> None:
    tf = loaded()

    source = saved(lambda x: tf.math.lgamma(x), tmp_path / "net", ([None, 4], "float32", "x"))
    with pytest.raises(UnsupportedOperator, match="Lgamma"):
        TensorFlow().open(source).to_onnx(tmp_path)


@with_tensorflow
def test_a_damaged_model_ends_in_a_plain_error(tmp_path: Path) -> None:
    tf = loaded()

    held = tf.Variable(np.ones((4, 2), np.float32))
    source = saved(lambda x: x @ held, tmp_path / "net", ([None, 4], "float32", "x"), held=held)
    graph = source.path.read_bytes()
    source.path.write_bytes(graph[: len(graph) // 2])
    with pytest.raises(InvalidModel):
        TensorFlow().open(source)
    source.path.write_bytes(graph)
    next((tmp_path / "net" / "variables").glob("*.data*")).unlink()
    with pytest.raises(InvalidModel):
        TensorFlow().open(source)
    with pytest.raises(UnsupportedFormat, match="no signature"):
        TensorFlow().open(Source(laid_out(tmp_path / "empty"), "saved_model.pb"))
