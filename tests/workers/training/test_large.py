"""Networks whose training does not fit into one process: with `fsdp` it fits into several (a limit on each process's memory)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.training.trainings import Setting
from workers.assignment import DatasetFiles
from workers.samples import open_samples
from workers.training.data import describe
from workers.training.task import TrainingJob
from workers.training.weights import WEIGHTS

WIDTH, LAYERS = 4096, 4
BYTES = 4 * WIDTH**2 * LAYERS  # of the weights: 268 MB
BUDGET = 4.2  # times the weights, a third of them for libraries; weights, gradients and two moments alone are four times
PROGRAM = Path(__file__).with_name("large.py")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    torch.manual_seed(1)
    inner = [part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), *inner, nn.Linear(WIDTH, 10))
    return Setting.make(tmp_path_factory.mktemp("setting"), network, 96)


def trained(setting: Setting, folder: Path, processes: int, strategy: str, budget: int) -> dict[int, Any]:
    """What each process told."""
    (folder / "out").mkdir(parents=True)
    given = FinetuneParams.model_validate({"epochs": 1, "batch_size": 48, "learning_rate": 1e-4})
    samples = open_samples(DatasetFiles(id="d", digest="0", root=setting.data, format="npz", name="digits"))
    job = TrainingJob(
        task="finetune", program=setting.program, params=given.model_dump(mode="json"), seed=3, device="cpu",
        train=describe(samples), out=folder / "out", checkpoint_seconds=0.0,
    )  # fmt: skip
    (folder / "job.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    repository = str(PROGRAM.parents[3])
    subprocess.run(
        [*command, str(PROGRAM), str(folder), strategy, str(budget)], cwd=repository, check=False, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": repository},
    )  # fmt: skip
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("[0-9].json")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_processes_with_shares_train_what_one_has_no_memory_for(
    setting: Setting, tmp_path: Path
) -> None:
    budget = int(BUDGET * BYTES)
    free = trained(setting, tmp_path / "free", 1, "ddp", 0)
    copies = trained(setting, tmp_path / "copies", 3, "ddp", budget)
    shares = trained(setting, tmp_path / "shares", 3, "fsdp", budget)

    assert free[0]["taken"] > budget
    problems = [told["problem"]["code"] for told in copies.values() if "problem" in told]
    assert "out_of_memory" in problems
    assert sorted(shares) == [0, 1, 2]
    assert all(told.get("taken", budget) < budget for told in shares.values()), shares
    whole, found = (load_file(tmp_path / name / "out" / WEIGHTS) for name in ("free", "shares"))
    assert whole.keys() == found.keys()
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4)
