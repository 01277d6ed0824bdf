"""A whole job that starts from a SavedModel, in the sandbox that uploads get, where the `tensorflow` extra is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.e2e.service import Service, run_alone
from tests.workers.formats.uploads import zipped

INSTALLED = all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx"))


@pytest.mark.slow  # TensorFlow is loaded by each child
@pytest.mark.skipif(not INSTALLED, reason="needs the `tensorflow` extra")
def test_a_saved_model_becomes_an_engine(service: Service, tmp_path: Path) -> None:
    from workers.tensorflow.opened import tensorflow_library

    tf = tensorflow_library()
    random = np.random.default_rng(0)
    module = tf.Module()
    module.filters = tf.Variable(random.standard_normal((3, 3, 2, 8)).astype(np.float32) / 4)
    module.weights = tf.Variable(random.standard_normal((8, 5)).astype(np.float32) / 3)

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 2], tf.float32, "image")])
    def serve(image):  # type: ignore[no-untyped-def]
        hidden = tf.nn.relu(tf.nn.conv2d(image, module.filters, 1, "SAME"))
        return {"scores": tf.reduce_mean(hidden, [1, 2]) @ module.weights}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "net"), signatures=serve)
    members = [
        (str(path.relative_to(tmp_path / "net")), path.read_bytes())
        for path in sorted((tmp_path / "net").rglob("*"))
        if path.is_file()
    ]
    model = service.model(zipped(tmp_path / "net.zip", members))
    shown = service.client.show("models", model)
    assert shown["format"] == "tensorflow"
    assert shown["signature"]["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": ["batch", 12, 12, 2]}
    ]

    images = random.standard_normal((32, 12, 12, 2)).astype(np.float32)
    data = service.dataset("calibration", image=images)
    job = service.optimize(
        model, [{"pass": "simplify"}, {"pass": "quantize-static", "inputs": {"calibration": data}}]
    )
    assert job["status"] == "succeeded", job["problem"]
    assert (
        job["result"]["comparison"]["speedup_over_reference"]["value"] > 0
    )  # its own framework, beside the engine

    bundle = service.bundle(job)
    assert run_alone(bundle)["ok"]
    (engine,) = bundle.rglob("*.onnx")
    session = onnxruntime.InferenceSession(engine, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": images})
    wanted = serve(tf.constant(images))["scores"].numpy()
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
