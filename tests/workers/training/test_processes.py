"""Two real processes against one: the same batch gives the same step, whether each has the network or a share of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.workers.training.arrays import program
from tests.workers.training.together import CONSTANT, one_step, wide
from tests.workers.training.trainings import needs_horovod
from workers import horovod_library
from workers.training.group import SingleProcess

TOLERANCE = 1e-5  # of the largest element: sums in fp32, in another order
PROGRAM = Path(__file__).with_name("together.py")
NETWORKS = ("convolutions", "wide")
HOROVOD = pytest.param("horovod", marks=needs_horovod)
STRATEGIES = ("ddp", "fsdp", HOROVOD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have done a step of each network in each strategy of each backend that is here."""
    root = tmp_path_factory.mktemp("together")
    program(root / "convolutions")
    program(root / "wide", wide())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(PROGRAM),
    ]
    repository = str(PROGRAM.parents[3])
    for backend in ("torchrun", *(["horovod"] if horovod_library.version() else [])):
        done = subprocess.run(
            [*command, str(root), backend], cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": repository},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: one_step(folder / name / "model.pt2", SingleProcess()) for name in NETWORKS}
    finally:
        torch.set_num_threads(threads)


def told(folder: Path, strategy: str, network: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    stem = folder / f"{strategy}-{network}"
    return load_file(stem.with_suffix(".safetensors")), json.loads(stem.with_suffix(".json").read_text())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_and_weights_of_a_step_are_those_of_one_process(
    folder: Path, alone: Any, strategy: str, network: str
) -> None:
    expected, facts = alone[network]
    found, seen = told(folder, strategy, network)
    assert set(found) == set(expected)
    assert sum(name.startswith("gradient/") for name in expected) > 3
    for name, value in expected.items():
        if name.startswith(("gradient/", "state/")):
            largest = float(value.abs().max())
            assert largest > 0, name
            assert float((found[name] - value).abs().max()) <= TOLERANCE * largest, name
        elif (
            name.startswith("after/")
            and value.is_floating_point()
            and not name.endswith(("of_rank", "constant"))
        ):
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert seen["norm"] == pytest.approx(facts["norm"], rel=TOLERANCE)
    assert seen["loss"] == pytest.approx(facts["loss"], rel=TOLERANCE)
    assert seen["unused"], "what the loss does not depend on gets no gradient, and is not waited for"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_buffers_become_their_mean_and_constants_stay(folder: Path, strategy: str, network: str) -> None:
    found, _ = told(folder, strategy, network)
    assert found["after/of_rank"].tolist() == [1.5]
    assert found["after/constant"].tolist() == torch.tensor(CONSTANT).tolist()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whole_tensors_are_put_in_and_taken_out(folder: Path, strategy: str, network: str) -> None:
    found, _ = told(folder, strategy, network)
    filled = {name: one for name, one in found.items() if name.startswith("filled/")}
    assert filled
    for name, value in filled.items():
        assert torch.equal(value, torch.full_like(value, len(name.removeprefix("filled/"))))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_sharded_network_lies_half_in_each(folder: Path, alone: Any, network: str) -> None:
    _, whole = alone[network]
    _, copied = told(folder, "ddp", network)
    _, shared = told(folder, "fsdp", network)
    assert copied["held"] == whole["held"]
    assert shared["held"] == pytest.approx(whole["held"] / 2, rel=0.05)
