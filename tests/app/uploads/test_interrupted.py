"""Uploads over lines that break, to processes that are killed, by clients that are killed."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from app import sending, transport
from app.client import Client
from tests.app.api.support import bearer, make_key
from tests.app.uploads.line import ApiProcess, Line, api_process, line_to, until
from tests.conftest import fill, installation

MIB = 2**20
UNSEEN = 8 * MIB  # a part; what may be on its way, in buffers of ours and the kernels', when a line is cut


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "RESUMABLE_BYTES", MIB)
    monkeypatch.setattr(sending, "PART_BYTES", 8 * MIB)
    monkeypatch.setattr(transport, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(transport, "LONGEST_PAUSE_SECONDS", 0.2)


@pytest.fixture(scope="module")
def api_at(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    folder = tmp_path_factory.mktemp("installation")
    url = f"sqlite:///{folder / 'burnish.db'}"
    fill(url)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BURNISH_LEASE_SECONDS", "2")  # of a process that is killed
        with installation(url, redis_url, folder, monkeypatch), api_process(folder) as api:
            yield api


@pytest.fixture
def line(api_at: ApiProcess) -> Iterator[Line]:
    with line_to(api_at.port) as line:
        yield line


def random_file(path: Path, size: int) -> str:
    content = os.urandom(size)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("small_parts")
def test_a_line_that_is_cut_again_and_again(line: Line, tmp_path: Path) -> None:
    size = 30 * MIB
    digest = random_file(tmp_path / "net.onnx", size)
    line.cuts = [3 * MIB, 14 * MIB, 15 * MIB, 27 * MIB]
    cuts = len(line.cuts)
    told: list[tuple[int, int]] = []
    with Client(line.url, make_key("write")) as client:
        model = client.upload_model(
            tmp_path / "net.onnx", progress=lambda done, total: told.append((done, total))
        )
        assert client.list("uploads") == []
    assert line.cuts == []
    assert (model["sha256"], model["size_bytes"], model["filename"]) == (digest, size, "net.onnx")
    assert line.sent_bytes < size + cuts * UNSEEN
    assert told[-1] == (size, size)


@pytest.mark.usefixtures("small_parts")
def test_the_api_is_killed_and_started_again(api_at: ApiProcess, line: Line, tmp_path: Path) -> None:
    size = 24 * MIB
    digest = random_file(tmp_path / "data.npz", size)
    killed: list[int] = []

    def kill_once(done: int, total: int) -> None:
        if done >= 13 * MIB and not killed:
            killed.append(line.sent_bytes)
            api_at.kill()
            api_at.start()

    with Client(line.url, make_key("write")) as client:
        dataset = client.upload_dataset(tmp_path / "data.npz", progress=kill_once)
    assert killed
    assert (dataset["sha256"], dataset["size_bytes"]) == (digest, size)
    assert line.sent_bytes < size + UNSEEN


def test_a_command_that_is_killed_and_run_again(line: Line, tmp_path: Path) -> None:
    size = sending.RESUMABLE_BYTES + 2 * MIB
    digest = random_file(tmp_path / "net.onnx", size)
    key = make_key("write")
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "models",
        "upload",
        str(tmp_path / "net.onnx"),
        "--url",
        line.url,
    ]
    environment = {**os.environ, "BURNISH_API_KEY": key}
    line.pause_seconds = 0.002
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        until(lambda: line.sent_bytes > 20 * MIB)
        first.kill()
    line.pause_seconds = 0.0
    with (
        Client(line.url, key) as client,
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as second,
    ):
        until(lambda: digest in [model["sha256"] for model in client.list("models")])
        second.kill()  # it waits for an inspection that nobody does here
        assert client.list("uploads") == []
    assert line.sent_bytes < size + UNSEEN


@pytest.mark.usefixtures("small_parts")
def test_many_at_once(api_at: ApiProcess, tmp_path: Path) -> None:
    digests = [random_file(tmp_path / f"{number}.onnx", 3 * MIB + number) for number in range(12)]
    key = make_key("write")

    def upload(number: int) -> str:
        with Client(f"http://127.0.0.1:{api_at.port}", key) as client:
            return str(client.upload_model(tmp_path / f"{number}.onnx")["sha256"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(upload, range(12))) == digests


@pytest.mark.usefixtures("small_parts")
def test_the_same_file_from_several_clients_at_once(api_at: ApiProcess, tmp_path: Path) -> None:
    digest = random_file(tmp_path / "net.onnx", 20 * MIB)
    key = make_key("write")

    def upload(_: int) -> str:
        with Client(f"http://127.0.0.1:{api_at.port}", key) as client:
            return str(client.upload_model(tmp_path / "net.onnx")["sha256"])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(upload, range(3))) == [digest] * 3


def test_memory_stays_constant(api_at: ApiProcess, tmp_path: Path) -> None:
    total, part = 200 * MIB, 50 * MIB
    rss = psutil.Process(api_at.process.pid).memory_info
    with httpx.Client(
        base_url=f"http://127.0.0.1:{api_at.port}/v1",
        headers=bearer(make_key("write")),
        timeout=60,
        trust_env=False,
    ) as client:
        chunk = os.urandom(MIB)

        def send(upload: str, start: int, size: int) -> int:
            peak = 0

            def body() -> Iterator[bytes]:
                nonlocal peak
                for index in range(size // MIB):
                    yield chunk
                    if index % 10 == 0:
                        peak = max(peak, rss().rss)

            headers = {"Content-Type": "application/partial-upload", "Upload-Offset": str(start)}
            assert client.patch(f"/uploads/{upload}", content=body(), headers=headers).status_code == 204
            return max(peak, rss().rss)

        small = client.post("/uploads", json={"name": "small", "size_bytes": MIB}).json()["id"]
        send(small, 0, MIB)
        before = rss().rss
        large = client.post("/uploads", json={"name": "large", "size_bytes": total}).json()["id"]
        peak = max(send(large, start, part) for start in range(0, total, part))
        assert client.post("/models", json={"upload": large}).json()["size_bytes"] == total
    assert peak - before < 64 * MIB
