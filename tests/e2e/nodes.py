"""The embedded service with several workers that train together, each a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from app.client import Client
from app.embedded import Embedded
from tests.conftest import forget_process_state
from tests.e2e.over_network import installed, variables
from tests.e2e.service import Service
from tests.e2e.wires import Host
from tests.workers.training.arrays import digits, program

QUEUE = "runtime.onnxruntime-cpu"
SECONDS = 240
SETTINGS = {
    "TRAIN_ADDRESS": "127.0.0.1",
    "RUNTIMES": "onnxruntime-cpu",
    "MEASURE_SECONDS": "0.5",
    "HEARTBEAT_SECONDS": "0.5",
    "SWEEP_SECONDS": "0.5",
    "RESEND_SECONDS": "1",
    "LEASE_SECONDS": "5",
}


def until(true: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `true` says once it is; the time only catches what hangs."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return value


@dataclass
class Fleet:
    """A running service, a network that knows nothing, digits to learn from, and workers besides the service's own."""

    service: Service
    environment: dict[str, str]
    logs: Path
    model: str
    data: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client(self) -> Client:
        """Of the service."""
        return self.service.client

    def another(self, *before_it: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start one more worker, `before_it` before its command; back once it serves."""
        before = len(self._seen())
        changed = variables(**settings)
        command = [sys.executable, "-P", "-m", "workers", "worker", "--queues", QUEUE, "--concurrency", "1"]
        with (self.logs / f"another-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*before_it, *command],
                env={**self.environment, **changed},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        until(lambda: len(self._seen()) > before)
        return worker

    def _seen(self) -> list[dict[str, Any]]:
        return [one for one in self.client.list("workers") if QUEUE in one["queues"]]

    def body(self, nodes: int, epochs: int = 2, batch: int = 32, **distributed: Any) -> dict[str, Any]:
        """A job that trains on so many nodes."""
        params = {
            "epochs": epochs, "batch_size": batch, "optimizer": "sgd", "learning_rate": 0.05, "freeze_batch_norm": True,
            "distributed": {"nodes": nodes, **distributed},
        }  # fmt: skip
        return {
            "kind": "optimize",
            "subject": self.model,
            "recipe": {
                "schema": 1,
                "passes": [{"pass": "finetune", "params": params, "inputs": {"train": self.data}}],
            },
            "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
        }

    def submit(self, nodes: int, epochs: int = 2, batch: int = 32, **distributed: Any) -> str:
        """Submit it; the job's id."""
        return str(self.client.submit(self.body(nodes, epochs, batch, **distributed))["id"])

    def until_it_trains(self, job: str, least: int, attempt: int = 1) -> None:
        """Wait until an attempt has done so many steps, those of earlier ones included."""

        def trains() -> bool:
            now = self.client.show("jobs", job)
            assert not now["finished"], now["problem"]
            far = "loss" in (now["progress"]["message"] or "") and now["progress"]["done"] >= least
            return bool(far and now["attempt"] == attempt)

        until(trains)

    def told(self, job: dict[str, Any]) -> str:
        """What a finished job tells of its training."""
        manifest = json.loads((self.service.bundle(job) / "manifest.json").read_text())
        (step,) = [one for one in manifest["steps"] if one["name"] == "pass:finetune"]
        return " ".join(step["told"])

    def succeeded(self, job: str) -> dict[str, Any]:
        """The job once it has ended well."""
        ended = self.client.wait(job)
        assert ended["status"] == "succeeded", (ended["problem"], self.client.logs(job))
        return ended

    def weights(self, job: dict[str, Any]) -> dict[str, Any]:
        """The engine's weights by name."""
        bundle = self.service.bundle(job)
        (entry,) = bundle.glob("**/*.onnx")
        model = onnx.load(str(entry))
        return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


@contextmanager
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[Fleet]:
    """A service whose worker trains with others."""
    for name, value in variables(**SETTINGS, **settings).items():
        monkeypatch.setenv(name, value)
    forget_process_state()
    with (
        Embedded(tmp_path / "data") as embedded,
        Client(embedded.url, embedded.api_key) as client,
        workers_of(client, worker_environment(), tmp_path) as made,
    ):
        yield made
    forget_process_state()


@contextmanager
def fleet_over_network(
    tmp_path: Path, address: str, hosts: Sequence[Host], **settings: str
) -> Iterator[Fleet]:
    """A worker on each host, which shares with the others what is at the address, and no files."""
    with (
        installed(address, tmp_path, **SETTINGS, **settings) as installation,
        workers_of(installation.client, installation.environment, tmp_path) as made,
    ):
        for host in hosts:
            own = {**installation.own(host.name), "TRAIN_ADDRESS": host.address}
            made.another(*host.inside, **own)
        yield made


@contextmanager
def workers_of(client: Client, environment: dict[str, str], folder: Path) -> Iterator[Fleet]:
    """A fleet without workers of its own; they end with it."""
    service = Service(client, folder)
    images, labels = digits()
    made = Fleet(
        service,
        environment,
        folder,
        service.model(program(folder / "network")),
        service.dataset("digits", images=images, labels=labels),
    )
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.terminate()
        for worker in made.workers:
            try:
                worker.wait(60)
            finally:
                worker.kill()


def worker_environment() -> dict[str, str]:
    """What the embedded service gives its own worker."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "workers" in process.cmdline() and "--concurrency" in process.cmdline():
                return dict(process.environ())
        except psutil.Error:
            continue
    raise AssertionError("there is no worker")


def child_of(mark: str) -> psutil.Process | None:
    """The outermost process of an attempt whose folder's name begins with `mark`: with it all others end."""
    found = [process for process in psutil.process_iter() if _is_child(process, mark)]
    return min(found, key=lambda process: process.create_time(), default=None)


def _is_child(process: psutil.Process, mark: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "child" in words and any(f"/{mark}" in word for word in words)
