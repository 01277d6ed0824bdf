"""The embedded service as tests use it: uploads, jobs, bundles."""

import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.client import Client
from app.embedded import Embedded


@dataclass(frozen=True)
class Service:
    """A client of a running service, and a folder for what it downloads."""

    client: Client
    folder: Path

    def model(self, path: Path) -> str:
        """Upload a model; its id once it is ready."""
        model = self.client.wait_model(self.client.upload_model(path)["id"])
        assert model["status"] == "ready", model["problem"]
        return str(model["id"])

    def dataset(self, name: str, **arrays: np.ndarray) -> str:
        """Upload arrays; the dataset's id once it is ready."""
        path = self.folder / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        dataset = self.client.wait_dataset(self.client.upload_dataset(path)["id"])
        assert dataset["status"] == "ready", dataset["problem"]
        return str(dataset["id"])

    def optimize(
        self, model: str, passes: list[dict[str, Any]] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Submit an optimization for one thread of ONNX Runtime and wait for its end."""
        body: dict[str, Any] = {
            "kind": "optimize",
            "subject": model,
            "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
            **fields,
        }
        if passes is not None:
            body["recipe"] = {"schema": 1, "passes": passes}
        return self.client.wait(self.client.submit(body)["id"])

    def bundle(self, job: dict[str, Any]) -> Path:
        """The engine's bundle of a finished job, unpacked."""
        zipped = self.folder / f"{job['id']}.zip"
        self.client.download(job["result"]["artifacts"]["engine"], zipped)
        folder = self.folder / job["id"]
        with zipfile.ZipFile(io.BytesIO(zipped.read_bytes())) as archive:
            archive.extractall(folder)
        return folder


def burnish(
    embedded: Embedded, *arguments: str, check: int = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command of the installed package, in a process of its own."""
    known = {"BURNISH_URL": embedded.url, "BURNISH_API_KEY": embedded.api_key, **more}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", *arguments], env=os.environ | known, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == check, done.stdout + done.stderr
    return done


def run_alone(bundle: Path) -> dict[str, Any]:
    """Run a bundle's `run.py` where Burnish cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "run.py"), "--json"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        env={},
    )
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1), done.stderr
    return said
