"""A model of 8-bit floats on a CPU: what its engine computes is what the graph says, at every level of optimization."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.catalog.runtimes import RUNTIMES
from tests.matrix.engines import signal_db
from tests.workers.tensorrt.networks import KINDS, Exported
from tests.workers.tensorrt.precisions import in_precision
from tests.workers.tensorrt.test_forms import outputs
from workers import runtimes

LEAST_DB = {
    "fp8": 50,
    "fp8 + fp16": 40,
}  # a wrong graph keeps 12 to 31; bf16 and fp16 kernels round on the way


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("onnxruntime-cpu", {"graph_optimization": "all"}),
        ("onnxruntime-cpu", {"graph_optimization": "extended"}),
        ("openvino-cpu", {}),
    ],
    ids=["onnxruntime", "onnxruntime extended", "openvino"],
)
@pytest.mark.parametrize("precision", list(LEAST_DB))
@pytest.mark.parametrize("kind", KINDS)
def test_optimizing_leaves_8_bit_floats_right(
    kind: str,
    precision: str,
    target: str,
    given: dict[str, str],
    network: Callable[..., Exported],
    tmp_path: Path,
) -> None:
    subject = network(kind)
    model = in_precision(subject, precision, tmp_path / "model")
    runtime, params = (
        runtimes.registry.alone(target),
        RUNTIMES[target].params.model_validate({"threads": 1, **given}),
    )
    (tmp_path / "engine").mkdir()
    engine = runtime.build(model, params, tmp_path / "engine")
    x = subject.x[:2]
    got = runtime.load(engine, params).run({"x": x})["y"]
    assert signal_db(outputs(model, x), got) > LEAST_DB[precision]
