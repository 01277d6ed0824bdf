"""An engine as a model folder of MLflow, of the flavor `python_function`.

Source: https://mlflow.org/docs/latest/ml/model/ and https://mlflow.org/docs/latest/python_api/mlflow.pyfunc.html.
"""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from app.errors import UnsupportedFormat
from workers.bundle.forms.contents import copy_bundle, requirements_text

LOADER = "burnish_pyfunc"
DTYPES = {"string": "str"}
README = """\
# {name} for MLflow

```
pip install mlflow -r requirements.txt
mlflow models serve --model-uri . --env-manager local --port 8080
```

or `mlflow.pyfunc.load_model(".").predict({{name: array}})`; the answer holds arrays by name. `mlflow.pyfunc.log_model` is not needed:
`mlflow.log_artifacts` and `mlflow.register_model` take the folder as it is.
"""


def write(folder: Path, bundle: Path, manifest: dict[str, Any], name: str) -> None:
    """Write `MLmodel`, its environments, the loader and the bundle below `folder`.

    Raises:
        UnsupportedFormat: MLflow has no type for an input or output.
    """
    copy_bundle(bundle, folder / "bundle")
    code = folder / "code" / f"{LOADER}.py"
    code.parent.mkdir()
    shutil.copyfile(Path(__file__).with_name(f"{LOADER}.py"), code)
    python = manifest["versions"]["python"]
    (folder / "requirements.txt").write_text(requirements_text(manifest), encoding="utf-8")
    (folder / "python_env.yaml").write_text(
        yaml_text({"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}),
        encoding="utf-8",
    )
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements_text(manifest).split()}],
    }
    (folder / "conda.yaml").write_text(yaml_text(conda), encoding="utf-8")
    (folder / "MLmodel").write_text(yaml_text(described(manifest, folder)), encoding="utf-8")
    (folder / "README.md").write_text(README.format(name=name), encoding="utf-8")


def described(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The contents of `MLmodel`."""
    made = datetime.fromisoformat(manifest["created_at"])
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "flavors": {
            "python_function": {
                "code": "code",
                "data": "bundle",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": LOADER,
                "python_version": manifest["versions"]["python"],
            }
        },
        "metadata": {"burnish_job": manifest["job"], "model_digest": manifest["model"]["digest"]},
        "model_size_bytes": size,
        "model_uuid": uuid.uuid5(uuid.NAMESPACE_URL, f"burnish:{manifest['job']}").hex,
        "signature": {
            side: json.dumps([_tensor(entry) for entry in manifest["signature"][side]])
            for side in ("inputs", "outputs")
        }
        | {"params": None},
        "utc_time_created": made.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _tensor(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry["dtype"] == "bfloat16":
        raise UnsupportedFormat(
            f"MLflow has no type for {entry['name']!r}, which is {entry['dtype']}",
            stage="packaging",
            node=entry["name"],
            param="options.package",
        )
    shape = [-1 if dim is None else dim for dim in entry["shape"]]
    spec = {"dtype": DTYPES.get(entry["dtype"], entry["dtype"]), "shape": shape}
    return {"type": "tensor", "name": entry["name"], "tensor-spec": spec}


def yaml_text(value: Mapping[str, Any], indent: int = 0) -> str:
    """A mapping as YAML blocks; scalars are written as JSON, which YAML 1.2 includes."""
    lines = []
    for key, inner in value.items():
        space = " " * indent
        if isinstance(inner, Mapping):
            lines.append(f"{space}{key}:\n{yaml_text(inner, indent + 2)}")
        elif isinstance(inner, Sequence) and not isinstance(inner, str):
            lines.append(f"{space}{key}:\n" + "".join(f"{space}- {json.dumps(one)}\n" for one in inner))
        else:
            lines.append(f"{space}{key}: {json.dumps(inner)}\n")
    return "".join(lines)
