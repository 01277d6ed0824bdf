"""Regressions that nobody sees in a model: planted, found and named by `burnish compare`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.embedded import Embedded
from tests.e2e.convolutions import CHANNELS, LAYERS, SIZE, explaining, network, run
from tests.e2e.service import Service

RUNTIMES = ("onnxruntime-cpu", "openvino-cpu")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A service that has OpenVINO too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_RUNTIMES", ",".join(RUNTIMES))
        with Embedded(tmp_path_factory.mktemp("regressions") / "data") as running:
            yield running


def test_a_layer_that_lost_its_layout_is_named(embedded: Embedded, service: Service, tmp_path: Path) -> None:
    """ONNX Runtime's blocks of channels need weights that are constants, and an exporter left some that are none."""
    target = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}
    before, after = (
        run(service, service.model(network(tmp_path / name, [3] * LAYERS, loose)),
            targets=[target], profile={"seconds": 2.0, "advise": False})
        for name, loose in (("constant.onnx", []), ("loose.onnx", [2]))
    )  # fmt: skip
    (slowed,) = [change for change in explaining(embedded, before, after) if "conv2" in change["layers"]]
    assert slowed["what"] == "slower"
    assert "layout nchwc before, plain after" in slowed["words"]


def test_a_layer_that_fell_back_to_floating_point_is_named(
    embedded: Embedded, service: Service, tmp_path: Path
) -> None:
    """The same recipe: OpenVINO has no convolution in 8 bits whose weights are no constants, and computes it in fp32."""
    target = {"runtime": "openvino-cpu", "params": {"threads": 1, "inference_precision": "f32"}}
    samples = np.random.default_rng(0).random((8, CHANNELS, SIZE, SIZE), np.float32)
    jobs = []
    for name, loose in (("constant", []), ("loose", [2])):
        model = service.model(network(tmp_path / f"{name}.onnx", [3] * LAYERS, loose))
        more = {"scale": np.ones(8, np.float32)} if loose else {}
        step = {
            "pass": "quantize-static",
            "inputs": {"calibration": service.dataset(name, x=samples, **more)},
        }
        jobs.append(service.optimize(model, [step], targets=[target]))
        assert jobs[-1]["status"] == "succeeded", jobs[-1]["problem"]
    (fallen,) = [change for change in explaining(embedded, *jobs, layers=True) if "conv2" in change["layers"]]
    assert fallen["what"] == "slower"
    assert "int8 before, fp32 after" in fallen["words"]
