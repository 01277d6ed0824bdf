"""Bundles from end to end: signed, with their licence, in every form, checked and built anew by the command."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.client import Client
from app.embedded import Embedded
from app.signing import keys
from app.signing.keys import SigningKey
from app.signing.signatures import pem, verify
from tests.e2e.service import Service
from tests.workers.bundle.conftest import save_model

ROOT = Path(__file__).parents[2]
FORMS = ["triton", "docker", "mlflow"]


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, SigningKey]]:
    """`burnish up` on data that has a signing key."""
    data = tmp_path_factory.mktemp("signing") / "data"
    key = keys.create(data / "signing")
    with Embedded(data) as running:
        yield running, key


def command(service: Embedded, folder: Path, *arguments: str, status: int = 0) -> Any:
    """What `burnish` prints with --json."""
    environment = {
        **os.environ,
        "BURNISH_URL": service.url,
        "BURNISH_API_KEY": service.api_key,
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == status, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_an_engine_is_signed_packed_checked_and_built_anew(
    signing: tuple[Embedded, SigningKey], tmp_path: Path
) -> None:
    running, key = signing
    trusted = tmp_path / "keys.pem"
    trusted.write_text(pem(key.public))
    model = save_model(tmp_path / "model", ["n", 3]).path
    (tmp_path / "model" / "LICENSE").write_text("Do as you like.\n")
    packed = tmp_path / "model.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(model, "model.onnx")
        archive.write(tmp_path / "model" / "LICENSE", "LICENSE")
    with Client(running.url, running.api_key) as client:
        uploaded = client.wait_model(client.upload_model(packed, license="MIT")["id"])
        service = Service(client, tmp_path)
        asked = ["optimize", uploaded["id"], "--pass", "simplify", "--dry-run"]
        assert command(running, tmp_path, *asked)["valid"]
        refused = command(running, tmp_path, *asked, "--target", "tensorrt", status=1)
        assert refused["targets"][0]["problem"]["code"] == "no_worker"
        assert not client.list("jobs"), "nothing was queued"
        job = service.optimize(uploaded["id"], [{"pass": "simplify"}], options={"package": FORMS})
        assert job["status"] == "succeeded", job["problem"]
        assert set(job["result"]["artifacts"]) >= {"engine", "report", *FORMS}
        bundle = service.bundle(job)

        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["licences"]["model"] == {"licence": "MIT", "files": ["licences/LICENSE"]}
        assert (bundle / "licences" / "LICENSE").read_text() == "Do as you like.\n"
        signature = (bundle / "manifest.sig.json").read_bytes()
        assert verify((bundle / "manifest.json").read_bytes(), signature, [key.public]).trusted

        said = command(running, tmp_path, "check", str(bundle), "--trust", str(trusted))
        assert said["verdict"] == "yes"
        found = {finding["what"]: finding["ok"] for finding in said["findings"]}
        assert found["signature"] is found["files"] is found["outputs"] is True

        named = {
            "triton": {"model_repository/model-onnxruntime-cpu/config.pbtxt", "model_repository/model-onnxruntime-cpu/1/model.onnx"},
            "docker": {"Dockerfile", "serve.py", "bundle/manifest.json", "bundle/manifest.sig.json"},
            "mlflow": {"MLmodel", "code/burnish_pyfunc.py", "bundle/run.py"},
        }  # fmt: skip
        for form, names in named.items():
            path = client.download(job["result"]["artifacts"][form], tmp_path / f"{form}.zip")
            with zipfile.ZipFile(path) as archive:
                assert names | {"manifest.json", "README.md"} <= set(archive.namelist())
                own = archive.read("manifest.json")
                assert verify(own, archive.read("manifest.sig.json"), [key.public]).trusted
                assert json.loads(own)["package"] == form

    out = tmp_path / "anew"
    again = command(
        running, tmp_path, "rebuild", str(bundle), "--target", "onnxruntime-cpu:threads=1", "-o", str(out)
    )
    assert again["status"] == "succeeded", again["problem"]
    assert again["recipe"]["passes"] == []
    assert again["subject"] == job["result"]["artifacts"].get("model", uploaded["id"])
    assert command(running, tmp_path, "check", str(out), "--trust", str(trusted))["verdict"] == "yes"
    (out / "run.py").write_text("print('run')")
    assert command(running, tmp_path, "check", str(out), "--trust", str(trusted), status=1)["verdict"] == "no"
