"""Bundles of real engines, made without a job."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtimes import RUNTIMES
from workers import runtimes
from workers.bundle.build import lay_out, seal
from workers.bundle.samples import write_samples
from workers.model_handle import ModelHandle

Bundle = tuple[Path, dict[str, Any]]
MakeBundle = Callable[..., Bundle]


def save_model(
    folder: Path, shape: list[Any], names: tuple[str, str] = ("x", "y"), kind: int = TensorProto.FLOAT
) -> ModelHandle:
    """`y = 2 * x` as ONNX; a name in the shape is a free dimension."""
    folder.mkdir(parents=True)
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in names]
    two = numpy_helper.from_array(np.array(2, helper.tensor_dtype_to_np_dtype(kind)), "two")
    node = helper.make_node("Mul", [names[0], "two"], [names[1]])
    graph = helper.make_graph([node], "double", ends[:1], ends[1:], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return ModelHandle(folder, "model.onnx", "onnx", "0" * 64)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """`make_bundle(runtime, shape, names, kind, **params)`: the folder of a bundle of `y = 2 * x`, and its manifest."""
    count = 0

    def make(
        name: str = "onnxruntime-cpu",
        shape: list[Any] | None = None,
        names: tuple[str, str] = ("x", "y"),
        kind: int = TensorProto.FLOAT,
        **params: Any,
    ) -> Bundle:
        nonlocal count
        count += 1
        place = tmp_path / f"made{count}"
        model = save_model(place / "model", ["n", 3] if shape is None else shape, names, kind)
        spec = RUNTIMES[name]
        chosen = spec.params(threads=1, **params)
        runtime = runtimes.registry.get(name)
        (place / "engine").mkdir()
        engine = runtime.build(model, chosen, place / "engine")
        loaded = runtime.load(engine, chosen)
        folder = place / "bundle"
        folder.mkdir()
        entry = lay_out(folder, engine)
        sizes = [2 if dim is None else dim for dim in loaded.inputs[0]["shape"]]
        feed = np.arange(np.prod(sizes, dtype=int)).reshape(sizes).astype(loaded.inputs[0]["dtype"])
        manifest = {
            "schema": 1,
            "created_at": "2026-11-26T04:00:00+00:00",
            "job": "job_test",
            "model": {"id": "mdl_test", "name": "double", "digest": model.digest, "format": "onnx"},
            "target": {"runtime": name, "params": chosen.model_dump(mode="json")},
            "engine": {"entry": entry, "facts": engine.facts},
            "signature": {"inputs": loaded.inputs, "outputs": loaded.outputs},
            "validity": runtime.validity(engine, chosen),
            "requires": {**runtime.versions(), "numpy": version("numpy")},
            "licences": {"model": {"licence": None, "files": []}, "packages": []},
            "versions": {"burnish": "0", "python": "3.11.7", **runtime.versions()},
            "samples": write_samples(folder, loaded, loaded, {names[0]: feed}, {"seed": 0, "dataset": None}),
        }
        return folder, seal(folder, manifest, lambda text: None)

    return make
