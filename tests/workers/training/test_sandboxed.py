"""Processes that train, and those that read, inside of a job's sandbox: with the walls that this kernel has, and without namespaces."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.datasets.files import files, png, tar
from tests.workers.training.arrays import digits, program
from tests.workers.training.trainings import together
from workers.assignment import DatasetFiles
from workers.child_process import ChildLimits, ChildProcess
from workers.samples import open_samples
from workers.training.data import describe
from workers.training.task import TrainingJob

CHILD = (sys.executable, str(Path(__file__).with_name("sandboxed.py")))
STEPS, BATCH = 4, 32
MOST_SECONDS = 300  # a batch that is lost between processes would be waited for without end


def arrays(folder: Path) -> DatasetFiles:
    images, labels = digits(BATCH * STEPS)
    np.savez(folder / "digits.npz", images=images, labels=labels)
    return files(folder, "npz")


def pictures(folder: Path) -> DatasetFiles:
    """The same as images that are to be decoded."""
    images, labels = digits(BATCH * STEPS)
    members = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        members += [
            (f"{number}.png", png((image * 240).astype(np.uint8))),
            (f"{number}.cls", str(label).encode()),
        ]
    steps = [{"do": "normalize", "scale": 1 / 240}, {"do": "layout", "to": "channels-first"}]
    return tar(folder, members, fields={"images": "png", "labels": "cls"}, transforms=steps)


def train(
    root: Path, data: Callable[[Path], DatasetFiles], without: frozenset[str] = frozenset(), **given: Any
) -> dict[str, Any]:
    """The last word of a child that trains for an epoch of `STEPS` steps."""
    folder = root / "data" / "scratch" / "job_x-1"
    out = folder / "work" / "out"
    out.mkdir(parents=True)
    (folder / "data").mkdir()
    described = describe(open_samples(data(folder / "data")))
    params = FinetuneParams.model_validate({"epochs": 1, "batch_size": BATCH, **given})
    job = TrainingJob(
        task="finetune", program=program(folder), params=params.model_dump(mode="json"), seed=0, device="cpu",
        train=described, out=out,
    )  # fmt: skip
    assignment = folder / "assignment.json"
    told = {"job": job.model_dump(mode="json"), "params": {"distributed": given.get("distributed", {})}}
    assignment.write_text(json.dumps(told))
    limits = ChildLimits(2**30, 2**34, 4096, 2**40, 100_000, without=without)
    child = ChildProcess(CHILD, assignment, folder, "job_x-1", limits)
    said: dict[str, Any] = {}
    give_up = time.monotonic() + MOST_SECONDS
    try:
        while not child.ended and time.monotonic() < give_up:
            for message in child.messages(0.2):
                said = message
    finally:
        child.close(5)
    assert said, child.log.tail(40)
    return said


def test_processes_meet_on_the_loopback_of_the_job(tmp_path: Path) -> None:
    said = train(tmp_path, arrays, **together())
    if said["network"] != "namespace":
        pytest.skip("this kernel gives jobs no network namespace")
    assert said == {"type": "result", "steps": STEPS, "processes": 2, "network": "namespace"}


def test_without_sockets_it_is_refused_and_says_why(tmp_path: Path) -> None:
    said = train(tmp_path, arrays, frozenset({"namespaces"}), **together())
    if said["network"] != "seccomp":
        pytest.skip("this kernel filters no system calls")
    problem = said["problem"]
    assert (problem["code"], problem["param"]) == ("invalid_params", "distributed.processes")
    assert "no network namespace" in problem["detail"]
    assert "docs/security.md" in problem["hint"]


def test_processes_read_ahead_where_no_socket_of_a_file_could_be(tmp_path: Path) -> None:
    """A socket's path has 107 characters at most (unix(7)), and a job's temporary files lie deeper than that."""
    root = tmp_path / ("long" * 30)
    said = train(root, pictures, loader={"workers": 1})
    if said["network"] != "namespace":
        pytest.skip("this kernel gives jobs no namespaces, and so no shared memory of their own")
    assert {name: said.get(name) for name in ("type", "steps", "problem")} == {
        "type": "result",
        "steps": STEPS,
        "problem": None,
    }


def test_nobody_reads_ahead_where_there_is_no_memory_to_share(tmp_path: Path) -> None:
    said = train(tmp_path, pictures, frozenset({"namespaces"}), loader={"workers": 1})
    assert {name: said.get(name) for name in ("type", "steps", "problem")} == {
        "type": "result",
        "steps": STEPS,
        "problem": None,
    }
