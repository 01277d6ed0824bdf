"""`burnish up`, as its user sees it: real processes, all of them gone in the end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from app.client import ApiProblem, Client
from app.embedded import Embedded, EmbeddedError

PATIENCE_SECONDS = 150


@dataclass
class Up:
    """A running `burnish up`."""

    process: subprocess.Popen[str]
    url: str
    home: Path

    @property
    def api_key(self) -> str:
        return str(json.loads((self.home / "burnish" / "connection.json").read_text())["api_key"])

    def family(self) -> list[psutil.Process]:
        """Everything that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, *words: str) -> psutil.Process:
        """The process whose command line holds these words."""
        (found,) = [one for one in self.family() if set(words) <= set(command_line(one))]
        return found


@contextmanager
def up(data: Path, home: Path, *, port: int = 0) -> Iterator[Up]:
    """`burnish up` until the block ends, killed if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up", "--data", str(data), "--port", str(port), "--json"],
        env={**os.environ, "XDG_CONFIG_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    text = ""
    try:
        for line in process.stdout:
            text += line
            if line.startswith("}"):
                break
        else:
            raise AssertionError(process.communicate()[1])
        yield Up(process, json.loads(text)["url"], home)
    finally:
        process.kill()
        process.communicate()


def fails(*arguments: str, home: Path) -> str:
    """What a `burnish up` says that does not come up."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "up", *arguments],
        env={**os.environ, "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def command_line(process: psutil.Process) -> list[str]:
    """A process's words; a zombie, or one that is gone, has none."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def new_children(others: set[psutil.Process]) -> list[psutil.Process]:
    """What this process has started, and what that has, less servers of other tests."""
    return [one for one in psutil.Process().children(recursive=True) if one not in others]


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they have all ended; one that nobody has reaped yet has."""
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def stop(service: Up, number: signal.Signals) -> None:
    """Stop it with a signal, and see that it goes cleanly and leaves nobody behind."""
    family = service.family()
    assert len(family) >= 4
    service.process.send_signal(number)
    _, errors = service.process.communicate(timeout=PATIENCE_SECONDS)
    assert service.process.returncode == 0
    assert "is killed" not in errors
    assert gone(family)


def test_up_stop_and_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_GC_HOURS", "0.0005")
    data, home = tmp_path / "data", tmp_path / "home"
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.zeros((4, 2), np.float32))
    with up(data, home) as service:
        assert (home / "burnish" / "connection.json").stat().st_mode & 0o777 == 0o600
        assert (data / "admin.key").stat().st_mode & 0o777 == 0o600
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        with Client(service.url, service.api_key) as client:
            dataset = client.wait_dataset(client.upload_dataset(samples)["id"])
            assert dataset["samples"] == 4
            assert any("runtime.onnxruntime-cpu" in worker["queues"] for worker in client.workers())
        key = service.api_key

        port = service.url.rsplit(":", 1)[1]
        said = fails("--data", str(data), "--port", "0", home=tmp_path / "other")
        assert f"pid {service.process.pid} at {service.url}" in said
        said = fails("--data", str(tmp_path / "more"), "--port", port, home=tmp_path / "other")
        assert f"cannot listen on 127.0.0.1:{port}" in said
        assert not (tmp_path / "other").exists()
        assert sorted(path.name for path in (tmp_path / "more").iterdir()) == ["up.lock"]

        collected = data / "logs" / "gc.log"
        end = time.monotonic() + PATIENCE_SECONDS
        while not (collected.exists() and collected.read_text().count('"files": 0') > 1):  # again and again
            assert time.monotonic() < end
            time.sleep(0.2)
        stop(service, signal.SIGINT)
    with up(data, home) as service:
        assert service.api_key == key
        with Client(service.url, key) as client:
            assert [row["id"] for row in client.list("datasets")] == [dataset["id"]]
        stop(service, signal.SIGTERM)


def test_killed_without_warning_it_leaves_nobody_behind(tmp_path: Path) -> None:
    with up(tmp_path / "data", tmp_path / "home") as service:
        family = service.family()
        assert len(family) >= 4
        service.process.kill()
        until(lambda: gone(family), 20)
        url = service.url
    with up(tmp_path / "data", tmp_path / "home", port=int(url.rsplit(":", 1)[1])) as service:
        assert service.url == url


def test_parts_that_die_are_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    others = set(new_children(set()))
    with (
        Embedded(tmp_path / "data", say=said.append) as service,
        Client(service.url, service.api_key) as client,
    ):
        workers = {worker["id"] for worker in client.workers()}
        family = new_children(others)
        words = {one: command_line(one) for one in family}  # before any is killed
        for word in ("serve", "inspect"):
            (found,) = [one for one in family if word in words[one]]
            found.kill()
        until(lambda: sum("starting it again" in line for line in said) == 2)
        until(lambda: len({worker["id"] for worker in client.workers()} - workers) == 1)
        assert sorted(line.split(";")[0] for line in said if "starting it again" in line) == [
            "api was killed by SIGKILL",
            "inspector was killed by SIGKILL",
        ]
    assert gone(family)


def test_a_part_that_dies_again_and_again_ends_it(tmp_path: Path) -> None:
    others = set(new_children(set()))
    with Embedded(tmp_path / "data") as service:
        family = new_children(others)
        over = threading.Event()

        def kill_inspectors() -> None:
            while not over.wait(0.1):
                for one in new_children(others):
                    if "inspect" in command_line(one):
                        with contextlib.suppress(psutil.Error):
                            one.kill()

        killer = threading.Thread(target=kill_inspectors)
        killer.start()
        try:
            with pytest.raises(EmbeddedError, match="inspector was killed by SIGKILL, 5 times"):
                service.wait()
        finally:
            over.set()
            killer.join()
        assert gone(family)


def test_a_setting_that_no_part_takes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_MAX_BODY_BYTES", "-1")
    with pytest.raises(EmbeddedError, match="max_body_bytes"):
        Embedded(tmp_path / "data").start()
    assert not (tmp_path / "data" / "broker.sock").exists()


def test_a_long_path_and_another_folders_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has a bound, and the user's own folders called `app` and `workers` are not ours."""
    for name in ("app", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    with (
        Embedded(tmp_path / ("long" * 25) / "data") as service,
        Client(service.url, service.api_key) as client,
    ):
        assert client.workers()
        with pytest.raises(ApiProblem):
            client.show("jobs", "job_none")


def test_its_settings_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A production database in the environment is left alone."""
    monkeypatch.setenv("BURNISH_DATABASE_URL", f"sqlite:///{tmp_path}/production.db")
    monkeypatch.setenv("BURNISH_STORAGE_DIR", f"{tmp_path}/production")
    with Embedded(tmp_path / "data") as service:
        assert socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1]))).close() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert (tmp_path / "data" / "burnish.db").exists()


def test_the_limit_on_requests_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its broker listens on a Unix socket, which two libraries spell differently."""
    monkeypatch.setenv("BURNISH_KEY_MAX_REQUESTS_PER_MINUTE", "30")
    data = tmp_path / "100% mine? #1"  # and in URLs none of these is what it is in a folder's name
    with Embedded(data) as service:
        key = {"Authorization": f"Bearer {service.api_key}"}
        answers = [httpx.get(f"{service.url}/v1/models", headers=key) for _ in range(31)]
    assert {answer.status_code for answer in answers[:10]} == {200}
    assert answers[0].headers["ratelimit-policy"] == '"key";q=30;w=60'
    assert answers[-1].status_code == 429
    assert list(tmp_path.iterdir()) == [data]
