"""Several processes inside of a job's sandbox, with the walls that this kernel has, and without namespaces."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.training.arrays import digits, program
from tests.workers.training.trainings import together
from workers.assignment import DatasetFiles
from workers.child_process import ChildLimits, ChildProcess
from workers.samples import open_samples
from workers.training.data import describe
from workers.training.task import TrainingJob

CHILD = (sys.executable, str(Path(__file__).with_name("sandboxed.py")))
STEPS = 4


def train(root: Path, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The last word of a child that trains two processes for an epoch of `STEPS` steps."""
    folder = root / "data" / "scratch" / "job_x-1"
    out = folder / "work" / "out"
    out.mkdir(parents=True)
    (folder / "data").mkdir()
    images, labels = digits(32 * STEPS)
    np.savez(folder / "data" / "digits.npz", images=images, labels=labels)
    samples = open_samples(DatasetFiles(id="d", digest="0", root=folder / "data", format="npz", name="d"))
    params = FinetuneParams.model_validate({"epochs": 1, "batch_size": 32, **together()}).model_dump(
        mode="json"
    )
    job = TrainingJob(
        task="finetune", program=program(folder), params=params, seed=0, device="cpu", train=describe(samples), out=out
    )  # fmt: skip
    assignment = folder / "assignment.json"
    assignment.write_text(
        f'{{"job": {job.model_dump_json()}, "params": {{"distributed": {{"processes": 2}}}}}}'
    )
    limits = ChildLimits(2**30, 2**34, 4096, 2**40, 100_000, without=without)
    child = ChildProcess(CHILD, assignment, folder, "job_x-1", limits)
    said: dict[str, Any] = {}
    try:
        while not child.ended:
            for message in child.messages(0.2):
                said = message
    finally:
        child.close(5)
    assert said, child.log.tail(40)
    return said


def test_processes_meet_on_the_loopback_of_the_job(tmp_path: Path) -> None:
    said = train(tmp_path)
    if said["network"] != "namespace":
        pytest.skip("this kernel gives jobs no network namespace")
    assert said == {"type": "result", "steps": STEPS, "processes": 2, "network": "namespace"}


def test_without_sockets_it_is_refused_and_says_why(tmp_path: Path) -> None:
    said = train(tmp_path, frozenset({"namespaces"}))
    if said["network"] != "seccomp":
        pytest.skip("this kernel filters no system calls")
    problem = said["problem"]
    assert (problem["code"], problem["param"]) == ("invalid_params", "distributed.processes")
    assert "no network namespace" in problem["detail"]
    assert "docs/security.md" in problem["hint"]
