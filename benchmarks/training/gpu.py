"""Training on a GPU: fp32, bf16 and fp16 in turns, and a process of a group that talks by NCCL. Needs an NVIDIA GPU.

python -m benchmarks.training.gpu
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from app.catalog.pass_params.finetune import FinetuneParams
from benchmarks.table import table
from benchmarks.training.common import Room, accuracy, room
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.training.data import describe
from workers.training.launch import run as launch
from workers.training.report import TrainingReport, load_report
from workers.training.task import TrainingJob
from workers.training.torchrun import Order, run_processes
from workers.training.weights import WEIGHTS

PRECISIONS = ("fp32", "bf16", "fp16")
SIDE, CHANNELS, TURNS, TESTED = 32, 3, 3, 397
TRAINING = {"epochs": 12, "batch_size": 128, "learning_rate": 2e-3}


def main() -> int:
    """Print the tables; 1 where a precision learns less."""
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    images, labels = digits()
    scores: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    speeds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    told: dict[str, TrainingReport] = {}
    with room() as place:
        model = place.program(network(), (CHANNELS, SIDE, SIDE))
        job = described(place, model, images[TESTED:], labels[TESTED:])
        for turn in range(TURNS):
            for name in PRECISIONS[:: -1 if turn % 2 else 1]:
                made, told[name] = trained(place, model, job, precision=name, seed=turn)
                scores[name].append(accuracy(made, images[:TESTED], labels[:TESTED]))
                speeds[name].append(told[name].samples_per_second)
        print(precisions_table(scores, speeds, told), flush=True)
        alone = [epoch.loss for epoch in trained(place, model, job)[1].history]
        for strategy in ("ddp", "fsdp"):
            losses = [epoch.loss for epoch in in_group(place, job, strategy).history]
            apart = max(abs(one - two) / two for one, two in zip(losses, alone, strict=True))
            print(f"{strategy}, one process, NCCL: losses {apart:.1e} apart from training alone", flush=True)
    return int(min(scores["bf16"] + scores["fp16"]) < min(scores["fp32"]) - 3)


def precisions_table(
    scores: dict[str, list[float]], speeds: dict[str, list[float]], told: dict[str, TrainingReport]
) -> str:
    """Accuracy, and samples a second over those of fp32 in the same turn."""
    rows = [
        (
            name,
            " ".join(f"{score:.1f}%" for score in scores[name]),
            " ".join(f"{one / two:.2f}x" for one, two in zip(speeds[name], speeds["fp32"], strict=True)),
            f"{median(speeds[name]):.0f}",
            str(told[name].precision),
            str(told[name].loader),
        )
        for name in PRECISIONS
    ]
    return table(("", "accuracy", "speed", "samples/s", "precision", "loader"), rows)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, enlarged, in three channels, shuffled."""
    from sklearn.datasets import load_digits

    held = load_digits()
    order = np.random.default_rng(0).permutation(len(held.images))
    small = torch.from_numpy((held.images[order, None] / 16).astype(np.float32))
    large = nn.functional.interpolate(small, size=SIDE, mode="bilinear").expand(-1, CHANNELS, -1, -1)
    return large.contiguous().numpy(), held.target[order].astype(np.int64)


def network() -> nn.Module:
    """Convolutions wide enough for tensor cores, with batch norms."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in (
        (CHANNELS, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    ):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def described(place: Room, model: ModelHandle, images: np.ndarray, labels: np.ndarray) -> TrainingJob:
    """The training of a network on a GPU, its folder to be named."""
    return TrainingJob(
        task="finetune", program=model.path, params={}, seed=0, device="cuda",
        train=describe(place.data(images, labels)), out=Path(),
    )  # fmt: skip


def trained(
    place: Room, model: ModelHandle, job: TrainingJob, *, precision: str = "fp32", seed: int = 0
) -> tuple[ModelHandle, TrainingReport]:
    """The trained network and what training told."""
    from workers.training.network import save_trained

    params = FinetuneParams.model_validate({**TRAINING, "precision": precision})
    own = {"params": params.model_dump(mode="json"), "seed": seed, "out": place.new()}
    ctx = PassContext(out=place.new(), work=place.new(), device="cuda", seed=seed)
    report = launch(job.model_copy(update=own), ctx, params)
    folder = place.new()
    save_trained(model.path, own["out"] / WEIGHTS, folder / model.entry)  # type: ignore[operator]
    return ModelHandle(folder, model.entry, model.format, ""), report


def in_group(place: Room, job: TrainingJob, strategy: str) -> TrainingReport:
    """The same in a process that torchrun starts, the only one of its group."""
    import os

    params = FinetuneParams.model_validate({**TRAINING, "distributed": {"strategy": strategy}})
    own = job.model_copy(update={"params": params.model_dump(mode="json"), "out": place.new()})
    folder = place.new()
    file = folder / "job.json"
    file.write_text(own.model_dump_json())
    order = Order(
        job=file,
        processes=1,
        strategy=strategy,
        backend="torchrun",
        threads=2,
        parent=os.getpid(),
        folder=folder / "group",
    )
    run_processes(order, lambda event: None)
    return load_report(own.out)


if __name__ == "__main__":
    sys.exit(main())
