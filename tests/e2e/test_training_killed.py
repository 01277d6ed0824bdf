"""A job that trains, whose child is killed at random moments: what comes out is what comes out of one that nobody kills."""

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from app.client import Client
from app.embedded import Embedded
from tests.conftest import forget_process_state
from tests.e2e.service import Service
from tests.workers.training.arrays import digits, program

KILLS = 5
MORE = 10  # steps that each attempt does at least
SECONDS = 120


@pytest.fixture
def often_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service whose trainings keep a checkpoint every fifth of a second."""
    monkeypatch.setenv("BURNISH_CHECKPOINT_SECONDS", "0.2")
    forget_process_state()
    with (
        Embedded(tmp_path / "data") as embedded,
        Client(embedded.url, embedded.api_key) as client,
    ):
        yield Service(client, tmp_path)
    forget_process_state()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_kills_at_random_change_nothing(often_kept: Service, tmp_path: Path) -> None:
    images, labels = digits()
    model = often_kept.model(program(tmp_path / "network"))
    data = often_kept.dataset("digits", images=images, labels=labels)
    recipe = [{"pass": "finetune", "params": {"epochs": 40, "batch_size": 32}, "inputs": {"train": data}}]
    through = often_kept.optimize(model, recipe)
    assert through["status"] == "succeeded", through["problem"]
    body = {
        "kind": "optimize",
        "subject": model,
        "recipe": {"schema": 1, "passes": recipe},
        "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
        "options": {"no_cache": True},
    }
    killed = often_kept.client.submit(body)["id"]
    chance = random.Random(3)
    done = 0
    for attempt in range(1, KILLS + 1):
        done = _until_it_trains(often_kept.client, killed, attempt, done + MORE)
        time.sleep(chance.uniform(0.05, 0.4))
        _child(killed, attempt).kill()
    job = often_kept.client.wait(killed)
    assert job["status"] == "succeeded", job["problem"]
    assert job["attempt"] == KILLS + 1
    assert _weights(often_kept, job) == _weights(often_kept, through)
    manifest = json.loads((often_kept.bundle(job) / "manifest.json").read_text())
    (resumed,) = re.findall(r"resumed after step ([\d, ]+)", json.dumps(manifest["steps"]))
    assert len(set(resumed.strip(", ").split(", "))) == KILLS, "each attempt went on from somewhere else"


def _until_it_trains(client: Client, job: str, attempt: int, least: int) -> int:
    """Wait until an attempt has done so many steps, those of earlier ones included; how many it has."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        now = client.show("jobs", job)
        progress = now["progress"] or {}
        trains = now["attempt"] == attempt and "loss" in (progress.get("message") or "")
        if trains and progress["done"] >= least:
            return int(progress["done"])
        assert now["status"] in ("queued", "running"), now["problem"]
        time.sleep(0.05)
    pytest.fail(f"attempt {attempt} does not train")


def _child(job: str, attempt: int) -> psutil.Process:
    """The outermost process of the attempt: with it all others end."""
    mark = f"{job}-{attempt}/"
    found = [
        process
        for process in psutil.process_iter()
        if any(mark in word for word in _command(process)) and "child" in _command(process)
    ]
    return min(found, key=lambda process: process.create_time())


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _weights(service: Service, job: dict[str, Any]) -> dict[str, bytes]:
    bundle = service.bundle(job)
    entry = json.loads((bundle / "manifest.json").read_text())["engine"]["entry"]
    model = onnx.load(str(bundle / entry))
    return {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
