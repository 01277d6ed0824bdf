"""An engine as a model folder of MLflow: what is in it, what its loader does, and MLflow itself where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import TensorProto

from app.errors import UnsupportedFormat
from tests.workers.bundle.conftest import MakeBundle
from workers.bundle.forms import mlflow

LOADED = """
import json, sys
import numpy as np
{load}
fed = np.arange(6, dtype=np.float32).reshape(2, 3)
found = model.predict({{"x": fed}})
assert list(found) == ["y"] and (found["y"] == 2 * fed).all(), found
{more}
print(json.dumps(found["y"].tolist()))
"""


def folder_of(make: MakeBundle, out: Path, **given: Any) -> Path:
    out.mkdir()
    bundle, manifest = make(**given)
    mlflow.write(out, bundle, manifest, "double")
    return out


def run(script: str, **environment: str) -> Any:
    """A script in a process of its own, which cannot find Burnish; what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_the_folder_says(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = folder_of(make_bundle, tmp_path / "model")
    said = yaml.safe_load((folder / "MLmodel").read_text())
    flavor = said["flavors"]["python_function"]
    assert flavor["loader_module"] == "burnish_pyfunc"
    assert flavor["python_version"] == "3.11.7"
    assert (folder / flavor["code"] / "burnish_pyfunc.py").is_file()
    assert (folder / flavor["data"] / "manifest.json").is_file()
    tensor = {"dtype": "float32", "shape": [-1, 3]}
    assert json.loads(said["signature"]["inputs"]) == [{"type": "tensor", "name": "x", "tensor-spec": tensor}]
    assert json.loads(said["signature"]["outputs"])[0]["name"] == "y"
    assert said["utc_time_created"] == "2026-11-26 04:00:00.000000"
    assert said["model_size_bytes"] > 1000
    conda = yaml.safe_load((folder / flavor["env"]["conda"]).read_text())
    assert conda["dependencies"][0] == "python=3.11.7"
    assert any(pin.startswith("onnxruntime==") for pin in conda["dependencies"][2]["pip"])
    plain = yaml.safe_load((folder / flavor["env"]["virtualenv"]).read_text())
    assert plain == {
        "python": "3.11.7",
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }


def test_the_loader_needs_no_burnish(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = folder_of(make_bundle, tmp_path / "model")
    load = f"""
sys.path.insert(0, {str(folder / "code")!r})
import burnish_pyfunc
model = burnish_pyfunc._load_pyfunc({str(folder / "bundle")!r})"""
    more = """
assert (model.predict(fed, params={})["y"] == 2 * fed).all()
assert (model.predict(fed.astype(np.float64))["y"] == 2 * fed).all()
for wrong in ({"z": fed}, {}, {"x": fed, "z": fed}):
    try:
        model.predict(wrong)
    except ValueError:
        continue
    raise AssertionError(wrong)
assert "app" not in sys.modules and "workers" not in sys.modules"""
    assert run(LOADED.format(load=load, more=more)) == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


def test_integers_are_not_cut_out_of_floats(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = folder_of(make_bundle, tmp_path / "model", kind=TensorProto.INT64)
    spec = importlib.util.spec_from_file_location("loaded_pyfunc", folder / "code" / "burnish_pyfunc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module._load_pyfunc(str(folder / "bundle"))
    assert model.predict(np.array([[1, 2, 3]], np.int32))["y"].tolist() == [[2, 4, 6]]
    with pytest.raises(TypeError):
        model.predict(np.array([[1.5, 2, 3]]))


def test_what_mlflow_has_no_type_for(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, manifest = make_bundle()
    manifest["signature"]["outputs"][0]["dtype"] = "bfloat16"
    with pytest.raises(UnsupportedFormat, match="no type"):
        mlflow.write(tmp_path, bundle, manifest, "double")


def test_mlflow_itself(make_bundle: MakeBundle, tmp_path: Path) -> None:
    if importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("pandas") is None:
        pytest.skip("mlflow (or mlflow-skinny and pandas) is not installed")
    folder = folder_of(make_bundle, tmp_path / "model")
    load = f"import mlflow.pyfunc, mlflow.models; model = mlflow.pyfunc.load_model({str(folder)!r})"
    more = f"""
assert [one.name for one in model.metadata.signature.inputs.inputs] == ["x"]
assert [one.name for one in model.metadata.signature.outputs.inputs] == ["y"]
mlflow.models.get_model_info({str(folder)!r})
try:
    model.predict({{"x": fed[:, :2]}})
except mlflow.exceptions.MlflowException:
    pass
else:
    raise AssertionError("the signature does not hold")"""
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": (tmp_path / "runs").as_uri()}
    assert run(LOADED.format(load=load, more=more), **settings) == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
