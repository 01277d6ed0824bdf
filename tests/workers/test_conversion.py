"""A model that becomes another format is held against what it was."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from app.errors import InvalidModel, SignatureMismatch, UnsupportedFormat
from workers import passing, pipeline
from workers.conversion import convert
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Halves:
    """A model whose own framework is Python, and whose ONNX halves its input."""

    def __init__(self, run: Run):
        self._run = run
        self.inputs = [{"name": "x", "dtype": "float32", "shape": ["n", 4]}]
        self.outputs = [{"name": "y", "dtype": "float32", "shape": ["n", 4]}]
        self.facts: dict[str, Any] = {}

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run(feeds)

    def to_onnx(self, out: Path) -> ModelHandle:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y"))
        half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
        graph = helper.make_graph([helper.make_node("Mul", ["x", "half"], ["y"])], "halves", [x], [y], [half])
        opset = [helper.make_opsetid("", 18)]
        return save_onnx(helper.make_model(graph, opset_imports=opset, ir_version=10), out)

    def to_torch(self) -> Any:
        raise NotImplementedError


def test_what_follows_is_converted_and_says_how_closely(tmp_path: Path) -> None:
    made, facts = convert(Halves(lambda feeds: {"y": feeds["x"] / 2}), "onnx", tmp_path / "out")
    assert (made.format, made.path.is_file()) == ("onnx", True)
    assert facts["checked"]
    assert facts["outputs"]["y"]["cosine"] == 1.0


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidModel, match="converted to onnx, the model gives other values of 'y'"
    ) as caught:
        convert(Halves(lambda feeds: {"y": feeds["x"] / 2.01}), "onnx", tmp_path / "out")
    assert (caught.value.stage, caught.value.node) == ("converting", "y")


def test_a_model_that_takes_no_generated_inputs_is_converted_unchecked(tmp_path: Path) -> None:
    def particular(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise SignatureMismatch("index 63 is out of range")

    _, facts = convert(Halves(particular), "onnx", tmp_path / "out")
    assert not facts["checked"]
    assert "index 63 is out of range" in facts["reason"]


def test_a_worker_without_a_formats_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(names: Any) -> dict[str, str]:
        raise PackageNotFoundError("tensorflow")

    monkeypatch.setattr(passing, "versions_of", missing)
    attempt = pipeline.Attempt.__new__(pipeline.Attempt)
    attempt.converted = {}
    model = ModelHandle(Path(), "saved_model.pb", "tensorflow", "digest")
    with pytest.raises(UnsupportedFormat, match="this worker has no tensorflow") as caught:
        passing.taken(attempt, model, frozenset({"onnx"}))
    assert "extra `tensorflow`" in str(caught.value.hint)
