"""Uploads: what is stored, what is refused, and that neither memory nor the disk fills."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from app.config import Settings, get_settings
from app.storage import get_storage
from tests.app.api.support import Server, assert_problem, bearer, make_key

MIB = 1024 * 1024
CONTENT_TYPE = {"content-type": "multipart/form-data; boundary=B"}


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"


END = b"--B--\r\n"


def stored() -> tuple[list[str], list[Path]]:
    return sorted(get_storage().digests()), list(get_storage().incoming.iterdir())


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_model_is_stored_under_its_digest(api: TestClient) -> None:
    content = os.urandom(3 * MIB + 17)
    response = api.post(
        "/v1/models",
        files={"file": ("dir\\net.onnx", content)},
        data={"name": "net", "format": "onnx", "signature": ["x:0:float32:1,N,?", "y:int64:"]},
    )
    assert response.status_code == 201
    body = response.json()
    assert response.headers["location"] == f"/v1/models/{body['id']}"
    assert body["sha256"] == hashlib.sha256(content).hexdigest()
    assert (body["name"], body["filename"], body["size_bytes"]) == ("net", "net.onnx", len(content))
    assert (body["status"], body["digest"], body["facts"]) == ("inspecting", None, None)
    assert body["declared"] == {
        "format": "onnx",
        "signature": {
            "inputs": [
                {"name": "x:0", "dtype": "float32", "shape": [1, "N", None]},
                {"name": "y", "dtype": "int64", "shape": []},
            ],
            "outputs": [],
        },
    }
    assert stored() == ([body["sha256"]], [])
    assert b"".join(get_storage().open(body["sha256"])) == content
    assert api.get(response.headers["location"]).json() == body


def test_a_signature_of_another_form_is_refused_with_the_form(api_sqlite: TestClient) -> None:
    response = api_sqlite.post("/v1/models", files={"file": ("m", b"abc")}, data={"signature": "x"})
    assert response.json()["detail"] == (
        "signature: 'x' is not NAME:DTYPE:DIM,DIM… as in x:float32:batch,3,224,224"
    )


def test_a_signature_as_json(api_sqlite: TestClient) -> None:
    signature = {"inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3]}], "outputs": []}
    response = api_sqlite.post(
        "/v1/models", files={"file": ("m", b"abc")}, data={"signature": json.dumps(signature)}
    )
    assert response.json()["declared"]["signature"] == signature


def test_a_dataset(api: TestClient) -> None:
    response = api.post("/v1/datasets", files={"file": ("d.npz", b"abc")}, data={"name": "digits"})
    assert response.status_code == 201
    assert response.json()["name"] == "digits"
    assert api.get(response.headers["location"]).json() == response.json()
    refused = api.post("/v1/datasets", files={"file": ("d.npz", b"abc")}, data={"architecture": "x"})
    assert assert_problem(refused, 422, "invalid_params")["param"] == "architecture"


def test_the_same_bytes_twice_are_two_records_over_one_blob(api: TestClient) -> None:
    ids = {api.post("/v1/models", files={"file": ("m", b"abc")}).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert len(stored()[0]) == 1
    assert api.get("/v1/usage").json()["stored_bytes"] == 3


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (END, 422, "invalid_params", "file"),
        (part("name", b"x") + END, 422, "invalid_params", "file"),
        (part("file", b"", "m") + END, 422, "invalid_params", "file"),
        (part("file", b"x") + END, 422, "invalid_params", "file"),
        (part("file", b"x", "m") + part("file", b"y", "n") + END, 422, "invalid_params", "file"),
        (part("file", b"x", "m") + part("nope", b"y") + END, 422, "invalid_params", "nope"),
        (part("file", b"x", "m") + part("name", b"a") + part("name", b"b") + END, 422, "invalid_params", "name"),
        (part("file", b"x", "m") + part("name", b"\xff") + END, 422, "invalid_params", "name"),
        (part("file", b"x", "m") + part("name", b"y" * 70_000) + END, 413, "payload_too_large", "name"),
        (part("file", b"x", "m") + part("format", b"A B") + END, 422, "invalid_params", "format"),
        (part("file", b"x", "m") + part("signature", b"{") + END, 422, "invalid_params", "signature"),
        (part("file", b"x", "m") + part("signature", b"x:float32") + END, 422, "invalid_params", "signature"),
        (part("name", b"x") * 101 + END, 422, "invalid_params", None),
        (part("file", b"x", "m"), 400, "malformed_request", None),
        (b"", 400, "malformed_request", None),
        (b"garbage", 400, "malformed_request", None),
    ],
)  # fmt: skip
def test_refused_forms_leave_nothing(
    api_sqlite: TestClient, body: bytes, status: int, code: str, param: str | None
) -> None:
    problem = assert_problem(api_sqlite.post("/v1/models", content=body, headers=CONTENT_TYPE), status, code)
    assert problem.get("param") == param
    assert stored() == ([], [])
    assert api_sqlite.get("/v1/models").json()["items"] == []


def test_other_media_types_are_told_what_to_send(api_sqlite: TestClient) -> None:
    for response in (
        api_sqlite.post("/v1/models", content=b"abc", headers={"content-type": "text/plain"}),
        api_sqlite.post("/v1/datasets", content=b"abc"),
    ):
        assert "`file`" in assert_problem(response, 415, "unsupported_media_type")["hint"]
    response = api_sqlite.post("/v1/models", content=b"x", headers={"content-type": "multipart/form-data"})
    assert "boundary" in assert_problem(response, 400, "malformed_request")["detail"]


def test_a_file_over_the_limit(burnish: Settings, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_MAX_UPLOAD_BYTES", str(4 * MIB))
    get_settings.cache_clear()

    def chunked() -> Iterator[bytes]:
        yield part("file", b"", "m")[:-2]
        for _ in range(6):
            yield bytes(MIB)
        yield b"\r\n" + END

    response = server.client.post("/v1/models", content=chunked(), headers=CONTENT_TYPE)
    assert_problem(response, 413, "payload_too_large")
    assert stored() == ([], [])
    exactly = part("file", bytes(4 * MIB), "m") + END
    assert server.client.post("/v1/models", content=exactly, headers=CONTENT_TYPE).status_code == 201


def raw_answer(server: Server, headers: dict[str, str], body: bytes = b"") -> bytes:
    head = "POST /v1/models HTTP/1.1\r\nHost: x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        return connection.recv(65536)


def test_key_type_and_length_are_checked_before_a_byte_of_the_body_is_read(server: Server) -> None:
    announced = {"Content-Type": CONTENT_TYPE["content-type"], "Content-Length": str(10 * MIB)}
    assert raw_answer(server, announced).startswith(b"HTTP/1.1 401 ")
    reader = {"Authorization": f"Bearer {make_key('read')}"}
    assert raw_answer(server, announced | reader).startswith(b"HTTP/1.1 403 ")
    admin = {"Authorization": f"Bearer {server.key}"}
    huge = {"Content-Length": str(get_settings().max_upload_bytes * 2)}
    assert raw_answer(server, announced | admin | huge).startswith(b"HTTP/1.1 413 ")
    wrong = {"Content-Type": "application/octet-stream"}
    assert raw_answer(server, announced | admin | wrong).startswith(b"HTTP/1.1 415 ")


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    body = part("file", bytes(3 * MIB), "m")[:-2]
    head = (
        f"POST /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: {CONTENT_TYPE['content-type']}\r\nContent-Length: {10 * MIB}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        assert eventually(lambda: len(stored()[1]) == 1)
    assert eventually(lambda: stored() == ([], []))
    assert server.client.get("/v1/models").json()["items"] == []


def test_no_transaction_is_open_while_bytes_stream(server: Server) -> None:
    """On SQLite one writer locks all others out: another client writes while an upload is under way."""
    body = part("file", bytes(3 * MIB), "m") + END
    head = (
        f"POST /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: {CONTENT_TYPE['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode() + body[: 2 * MIB])
        assert eventually(lambda: len(stored()[1]) == 1)
        assert server.client.post("/v1/projects", json={"name": "meanwhile"}, timeout=5).status_code == 201
        connection.sendall(body[2 * MIB :])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_a_refused_upload_still_gets_its_answer(server: Server) -> None:
    """A client that sends all before it reads must find the problem, not a broken connection."""
    for _ in range(3):
        response = httpx.post(
            f"http://{server.host}:{server.port}/v1/models",
            files={"file": ("m", bytes(8 * MIB))},
            headers=bearer("brn_no_key"),
            trust_env=False,
            timeout=20,
        )
        assert_problem(response, 401, "unauthorized")


def test_memory_stays_constant(burnish_sqlite: Settings, tmp_path: Path) -> None:
    total = 300 * MIB
    key = make_key("write")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "serve.log"
    code = f"from app.serve import serve; serve('127.0.0.1', {port})"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=stderr)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=bearer(key), timeout=60, trust_env=False
        ) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/healthz").status_code == 200
                except httpx.TransportError:
                    return False

            assert eventually(answers, 60)
            assert client.post("/v1/models", files={"file": ("small", bytes(MIB))}).status_code == 201
            rss = psutil.Process(process.pid).memory_info
            before, peak = rss().rss, 0

            def body() -> Iterator[bytes]:
                nonlocal peak
                yield part("file", b"", "big")[:-2]
                chunk = os.urandom(MIB)
                for index in range(total // MIB):
                    yield chunk
                    if index % 10 == 0:
                        peak = max(peak, rss().rss)
                yield b"\r\n" + END

            response = client.post("/v1/models", content=body(), headers=CONTENT_TYPE)
            peak = max(peak, rss().rss)
            assert response.status_code == 201, response.text
            assert response.json()["size_bytes"] == total
            assert peak - before < 64 * MIB
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"uvicorn.error", "app.access"} <= {line["logger"] for line in lines}
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in lines)
    assert key not in log.read_text()
