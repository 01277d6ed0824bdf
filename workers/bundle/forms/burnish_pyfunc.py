"""Loads the bundle of this MLflow model (`loader_module` of its `MLmodel`). Needs the engine's runtime and numpy."""

import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"string": "str"}


class Engine:
    """The engine, as MLflow calls it."""

    def __init__(self, bundle: Path):
        spec = importlib.util.spec_from_file_location("bundle_run", bundle / "run.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(f"{bundle} holds no bundle")
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self._inputs: list[dict[str, Any]] = manifest["signature"]["inputs"]
        self._run = program.load(manifest)
        self._turn = threading.Lock()

    def predict(self, model_input: Any, params: Any = None) -> dict[str, Any]:
        """The outputs by name. `model_input`: arrays by name, or one array where there is one input.

        Raises:
            ValueError: an input is missing, unknown, or cannot be of its type.
        """
        names = [entry["name"] for entry in self._inputs]
        if not hasattr(model_input, "keys"):
            if len(names) != 1:
                raise ValueError(f"give the inputs by name: {', '.join(names)}")
            model_input = {names[0]: model_input}
        if set(model_input.keys()) != set(names):
            raise ValueError(
                f"the inputs are {', '.join(names)}, given were {', '.join(map(str, model_input.keys()))}"
            )
        feeds = {
            entry["name"]: np.asarray(model_input[entry["name"]]).astype(
                DTYPES.get(entry["dtype"], entry["dtype"]), casting="same_kind", copy=False
            )
            for entry in self._inputs
        }
        with self._turn:
            found: dict[str, Any] = self._run(feeds)
        return found


def _load_pyfunc(path: str) -> Engine:
    """MLflow's entry: `path` is the folder that `data` of `MLmodel` names."""
    return Engine(Path(path))
