"""Each target's preset as users get it: through a running service, with calibration data, labelled test data and a budget."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.client import Client
from app.embedded import Embedded
from tests.accuracy.cases import MAX_DROP, RUNTIMES, SEED, THREADS, Outcome
from tests.accuracy.subjects import Subject

SETTINGS = {"BURNISH_RUNTIMES": ",".join((*RUNTIMES, "torch-eager")), "BURNISH_MEASURE_SECONDS": "1"}


@dataclass(frozen=True)
class Uploaded:
    """Ids of a network and its data in a service."""

    model: str
    calibration: str
    evaluation: str


@contextmanager
def service(folder: Path) -> Iterator[Client]:
    """A service of its own, with one worker for all runtimes."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    try:
        with Embedded(folder / "data") as running, Client(running.url, running.api_key) as client:
            yield client
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def upload(client: Client, subject: Subject, folder: Path) -> Uploaded:
    """Upload a network and its data, and wait until they are inspected."""
    ids = {}
    for name, arrays in (("calibration", subject.calibration), ("evaluation", subject.evaluation)):
        path = folder / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        ids[name] = client.wait_dataset(client.upload_dataset(path)["id"])["id"]
    model = client.wait_model(client.upload_model(subject.export(folder / "net.pt2"))["id"])
    return Uploaded(model["id"], ids["calibration"], ids["evaluation"])


def preset(client: Client, uploaded: Uploaded, runtime: str) -> Outcome:
    """Run the job of a target's preset, and read its result."""
    job = client.submit(
        {
            "kind": "optimize",
            "subject": uploaded.model,
            "inputs": {"calibration": uploaded.calibration},
            "targets": [{"runtime": runtime, "params": {"threads": THREADS}}],
            "evaluation": {"dataset": uploaded.evaluation, "metric": "top1"},
            "budget": {"max_drop": MAX_DROP},
            "options": {"seed": SEED},
        }
    )
    return _read(client.wait(job["id"]))


def _read(job: Mapping[str, Any]) -> Outcome:
    passes = job["recipe"]["passes"] if job["recipe"] else []
    result = job["result"]
    if result is None:
        return Outcome(passes, job["problem"])
    comparison = result["comparison"]
    (output,) = comparison["fidelity"]["outputs"].values()
    return Outcome(
        passes,
        None,
        result["baseline"]["accuracy"]["value"],
        result["optimized"]["accuracy"]["value"],
        comparison["accuracy_drop"],
        comparison["within_budget"],
        comparison["size_ratio"],
        output["sqnr_db"],
    )
