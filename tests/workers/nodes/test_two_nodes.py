"""Two sandboxed children, each in a network of its own, train one network over two relays: as one process does."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.training.arrays import program
from tests.workers.training.test_sandboxed import BATCH, CHILD, STEPS, arrays
from workers.child_process import ChildLimits, ChildProcess
from workers.nodes.carrier import Carrier
from workers.samples import open_samples
from workers.training.data import describe
from workers.training.task import TrainingJob
from workers.training.weights import WEIGHTS

TOKEN = "5e" * 32
MOST_SECONDS = 300

pytestmark = pytest.mark.slow


class Node:
    """A child that is to train, and the relay beside it."""

    def __init__(self, root: Path, network: Path, node: int, nodes: int, processes: int = 1):
        self.folder = root / "scratch" / f"job_x-{node}"
        self.out = self.folder / "work" / "out"
        self.out.mkdir(parents=True)
        (self.folder / "data").mkdir()
        distributed = {"nodes": nodes, "processes": processes}
        given = {"epochs": 1, "batch_size": BATCH, "optimizer": "sgd", "freeze_batch_norm": True}
        params = FinetuneParams.model_validate({**given, "distributed": distributed})
        job = TrainingJob(
            task="finetune", program=shutil.copy(network, self.folder / network.name), params=params.model_dump(mode="json"), seed=0, device="cpu",
            train=describe(open_samples(arrays(self.folder / "data"))), out=self.out,
        )  # fmt: skip
        assignment = self.folder / "assignment.json"
        told: dict[str, Any] = {"job": job.model_dump(mode="json"), "params": params.model_dump(mode="json")}
        assignment.write_text(json.dumps(told | ({"nodes": nodes} if nodes > 1 else {})))
        self.carrier = Carrier(self.folder, "127.0.0.1", TOKEN)
        limits = ChildLimits(2**30, 2**34, 4096, 2**40, 100_000, node=node)
        self.child = ChildProcess(CHILD, assignment, self.folder, f"job_x-{node}", limits)
        self.said: dict[str, Any] = {}

    def hear(self) -> None:
        for message in self.child.messages(0.1):
            self.said = message

    def close(self) -> None:
        self.child.close(5)
        self.carrier.close()


def train(root: Path, nodes: int, processes: int = 1) -> list[Node]:
    network = program(root / "network")
    made = [Node(root, network, node, nodes, processes) for node in range(nodes)]
    for number, node in enumerate(made):
        node.carrier.meet(number, {each: other.carrier.address for each, other in enumerate(made)})
    give_up = time.monotonic() + MOST_SECONDS
    try:
        while not all(node.child.ended for node in made) and time.monotonic() < give_up:
            for node in made:
                if not node.child.ended:
                    node.hear()
    finally:
        for node in made:
            node.close()
    return made


def test_two_nodes_train_as_one_does(tmp_path: Path) -> None:
    first, second = train(tmp_path / "two", 2)
    if first.said.get("network") not in ("namespace", None):
        pytest.skip("this kernel gives jobs no network namespace")
    assert first.said["type"] == "result", (first.said, first.child.log.tail(40), second.child.log.tail(40))
    assert (first.said["steps"], first.said["processes"], second.said["part"]) == (STEPS, 2, 1)
    (alone,) = train(tmp_path / "one", 1)
    expected, found = load_file(alone.out / WEIGHTS), load_file(first.out / WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert not (second.out / WEIGHTS).exists()
