"""The Docker form: its Dockerfile, and its server as it runs, without Docker."""

import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from onnx import TensorProto

from tests.workers.bundle.conftest import MakeBundle
from workers.bundle.forms import docker
from workers.bundle.forms.serve import MOST_BYTES


class Server:
    """A running `serve.py`."""

    def __init__(self, folder: Path, *arguments: str):
        # -I: it must not find Burnish
        command = [sys.executable, "-I", str(folder / "serve.py"), "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )
        assert self.process.stdout is not None
        self.address = urlsplit(self.process.stdout.readline().strip())

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        return answer.status, said

    def infer(self, request: Any) -> tuple[int, Any]:
        return self.ask("POST", f"{self.address.path}/infer", json.dumps(request).encode())

    def stop(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


def image(make: MakeBundle, out: Path, **given: Any) -> Path:
    """The form's folder."""
    out.mkdir()
    bundle, manifest = make(**given)
    docker.write(out, bundle, manifest, "Double It")
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from tests.workers.bundle.conftest import make_bundle

    make = make_bundle.__wrapped__(tmp_path_factory.mktemp("server"))  # type: ignore[attr-defined]
    running = Server(image(make, tmp_path_factory.mktemp("out") / "image"), "--name", "double")
    yield running
    assert running.stop() == 0


GOOD = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


def test_inference(server: Server) -> None:
    status, said = server.infer({"id": "7", "inputs": [GOOD]})
    output = {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [2.0, 4.0, 6.0]}
    assert (status, said) == (200, {"model_name": "double", "id": "7", "outputs": [output]})
    nested = {**GOOD, "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}
    assert server.infer({"inputs": [nested], "outputs": [{"name": "y"}]})[1]["outputs"][0]["shape"] == [2, 3]


def test_health_and_metadata(server: Server) -> None:
    assert server.ask("GET", "/v2/health/live") == (200, {"live": True})
    assert server.ask("GET", "/v2/health/ready") == (200, {"ready": True})
    assert server.ask("GET", "/v2/models/double/ready")[0] == 200
    status, said = server.ask("GET", "/v2/models/double")
    assert (status, said["platform"]) == (200, "onnxruntime-cpu")
    assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert server.ask("GET", "/v2/models/other")[0] == 404
    assert server.ask("POST", "/v2/models/other/infer", b"{}")[0] == 404


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ([], "an object"),
        ({}, "an object"),
        ({"inputs": []}, "'x' is missing"),
        ({"inputs": [7]}, "no input 7"),
        ({"inputs": [GOOD, GOOD]}, "comes twice"),
        ({"inputs": [{**GOOD, "name": "z"}]}, "no input 'z'"),
        ({"inputs": [{**GOOD, "datatype": "FP64"}]}, "of datatype FP32"),
        ({"inputs": [{**GOOD, "datatype": None}]}, "of datatype FP32"),
        ({"inputs": [{**GOOD, "shape": [1, 4]}]}, "has the shape"),
        ({"inputs": [{**GOOD, "shape": [3]}]}, "has the shape"),
        ({"inputs": [{**GOOD, "shape": [-1, 3]}]}, "a list of sizes"),
        ({"inputs": [{**GOOD, "shape": [True, 3]}]}, "a list of sizes"),
        ({"inputs": [{**GOOD, "shape": [10**12, 3]}]}, "is not FP32"),
        ({"inputs": [{**GOOD, "data": [1, 2]}]}, "is not FP32"),
        ({"inputs": [{**GOOD, "data": ["a", "b", "c"]}]}, "is not FP32"),
        ({"inputs": [{**GOOD, "data": {"a": 1}}]}, "is not FP32"),
        ({"inputs": [GOOD], "outputs": [{"name": "z"}]}, "no output 'z'"),
        ({"inputs": [GOOD], "outputs": 7}, "no output None"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", str(value))[:50],
)
def test_requests_that_are_wrong_are_told_why(server: Server, request_: Any, why: str) -> None:
    status, said = server.infer(request_)
    assert status == 400
    assert why in said["error"]


def test_bodies_that_are_no_json_or_too_large(server: Server) -> None:
    path = "/v2/models/double/infer"
    assert server.ask("POST", path, b"{")[0] == 400
    assert server.ask("POST", path, b"[" * 100_000)[0] == 400
    assert server.ask("POST", path, b"\xff\xfe")[0] == 400
    assert server.ask("POST", path, b"{}", **{"Content-Length": str(MOST_BYTES + 1)})[0] == 413
    assert server.ask("POST", path, b"", **{"Content-Length": "-5"})[0] == 411
    with socket.create_connection((server.address.hostname, server.address.port), timeout=30) as raw:
        raw.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
        )
        assert raw.recv(64).startswith(b"HTTP/1.1 411")
    assert server.infer({"inputs": [GOOD]})[0] == 200


def test_many_at_once(server: Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> list[float]:
        said = server.infer({"inputs": [{**GOOD, "data": [number] * 3}]})[1]
        found: list[float] = said["outputs"][0]["data"]
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(32))) == [[2.0 * number] * 3 for number in range(32)]


def test_numbers_that_are_not_finite_come_as_null(server: Server) -> None:
    status, said = server.infer({"inputs": [{**GOOD, "data": [3e38, 1, -3e38]}]})
    assert (status, said["outputs"][0]["data"]) == (200, [None, 2.0, None])


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [(TensorProto.FLOAT16, "FP16"), (TensorProto.INT64, "INT64"), (TensorProto.DOUBLE, "FP64")],
)
def test_the_request_that_comes_along_is_answered(
    make_bundle: MakeBundle, tmp_path: Path, kind: int, datatype: str
) -> None:
    folder = image(make_bundle, tmp_path / "image", kind=kind)
    running = Server(folder)
    request = json.loads((folder / "request.json").read_text())
    assert request["inputs"][0]["datatype"] == datatype
    status, said = running.infer(request)
    assert status == 200
    assert said["outputs"][0]["data"] == (2 * np.arange(6)).tolist()
    assert running.stop() == 0


def test_it_serves_openvino_too(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = image(make_bundle, tmp_path / "image", name="openvino-cpu", inference_precision="f32")
    running = Server(folder)
    assert running.infer({"inputs": [GOOD]})[1]["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    assert running.stop() == 0


def test_it_does_not_start_with_an_engine_that_gives_something_else(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    folder = image(make_bundle, tmp_path / "image")
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    manifest["samples"]["outputs"]["y"] = {"sha256": "0" * 64, "atol": -1.0}
    (folder / "bundle" / "manifest.json").unlink()
    (folder / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    running = Server(folder)
    assert running.address.port is None
    _, said = running.process.communicate(timeout=30)
    assert running.process.returncode == 1
    assert "does not give the promised outputs here: y" in said


def test_the_dockerfile_is_in_order_and_names_what_is_there(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = image(make_bundle, tmp_path / "image")
    linter = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([linter, folder / "Dockerfile"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    text = (folder / "Dockerfile").read_text()
    assert "FROM python:3.11-slim" in text
    for copied in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (folder / copied).exists()
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert [pin.split("==")[0] for pin in pins] == ["numpy", "onnxruntime"]
    assert "docker build --tag double-it" in (folder / "README.md").read_text()
