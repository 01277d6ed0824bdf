"""Whole jobs in which a pass fixes the sizes of a model whose dimensions are free."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.e2e.service import Service, run_alone

SAMPLES = 10  # no multiple of the batch


@pytest.fixture
def free(service: Service, tmp_path: Path) -> str:
    """A product over the last axis of [batch, length, 64]."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 64]) for name in "xy")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Relu", ["m"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "free.onnx"))
    return service.model(tmp_path / "free.onnx")


def test_generated_data_has_the_sizes_that_were_fixed(service: Service, free: str) -> None:
    passes = [{"pass": "set-shapes", "params": {"dimensions": {"batch": 4, "length": 11}}}]
    job = service.optimize(free, [*passes, {"pass": "quantize-static"}], options={"allow_synthetic": True})

    assert job["status"] == "succeeded", job["problem"]
    for side in ("baseline", "optimized"):
        assert job["result"][side]["latency"]["batch"] == 4
    bundle = service.bundle(job)
    (described,) = onnx.load(str(next(bundle.glob("**/*.onnx")))).graph.input
    assert [dim.dim_value for dim in described.type.tensor_type.shape.dim] == [4, 11, 64]
    assert run_alone(bundle)["ok"]


@pytest.mark.slow
def test_samples_are_compared_in_batches_of_the_fixed_size(service: Service, free: str) -> None:
    data = np.random.default_rng(1).standard_normal((SAMPLES, 5, 64)).astype(np.float32)
    dataset = service.dataset("rows", x=data)
    fixed = {"pass": "set-shapes", "params": {"dimensions": {"batch": 4}}}
    job = service.optimize(free, [fixed], evaluation={"dataset": dataset, "metric": "snr"})

    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["optimized"]["accuracy"]["samples"] == SAMPLES
    assert job["result"]["optimized"]["latency"]["batch"] == 4


def test_a_size_that_the_data_lacks_is_named(service: Service, free: str) -> None:
    dataset = service.dataset("rows", x=np.zeros((SAMPLES, 5, 64), np.float32))
    fixed = {"pass": "set-shapes", "params": {"dimensions": {"length": 7}}}
    job = service.optimize(free, [fixed], evaluation={"dataset": dataset, "metric": "snr"})

    assert job["status"] == "failed"
    assert job["problem"]["code"] == "signature_mismatch"
    assert "dimension 1 of input 'x' is 7, in the dataset it is 5" in job["problem"]["detail"]
