"""Engines of a few matrix products, built by the catalog's runtimes, and engines that only a test could have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtimes import RUNTIMES
from workers import runtimes
from workers.measure.latency import EngineUnderTest
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx

RUNTIME = "onnxruntime-cpu"
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def products(folder: Path, width: int, layers: int, noise: float = 0.0) -> ModelHandle:
    """`layers` matrix products with ReLU on [n, width], made from a fixed seed; `noise` is added to every weight."""
    random, other = np.random.default_rng(0), np.random.default_rng(1)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        weight = random.standard_normal((width, width)) / np.sqrt(width / 2)
        weight += noise * other.standard_normal((width, width)) / np.sqrt(width)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{layer}"))
        output = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [output]))
        last = output
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, "products", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return save_onnx(model, folder)


def built(model: ModelHandle, out: Path, **params: Any) -> EngineUnderTest:
    """The model's engine, on one thread unless told."""
    validated = RUNTIMES[RUNTIME].params.model_validate({"threads": 1, **params})
    out.mkdir(parents=True)
    engine = runtimes.registry.alone(RUNTIME).build(model, validated, out)
    return EngineUnderTest(RUNTIME, engine.root, engine.entry, validated.model_dump(mode="json"))


class FunctionEngine:
    """A `LoadedEngine` that is a function: for outputs that no small network gives."""

    def __init__(self, run: Run, inputs: dict[str, list[Any]], outputs: list[str], dtype: str = "float32"):
        self._run = run
        self.inputs = [{"name": name, "dtype": dtype, "shape": shape} for name, shape in inputs.items()]
        self.outputs = [{"name": name, "dtype": "float32", "shape": [None]} for name in outputs]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run(feeds)
