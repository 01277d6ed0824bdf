"""Two processes beside one at the same batch over both: a step's gradients, the loss, the time."""

import torch
from torch import Tensor

from benchmarks.table import table
from benchmarks.training.common import room
from benchmarks.training.networks import plain
from tests.accuracy import fashion
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.torch.program import load_program

SAMPLES, TURNS = 6000, 3
TRAINING = {
    "epochs": 2, "batch_size": 200, "optimizer": "sgd", "learning_rate": 0.05, "clip_norm": None, "schedule": "constant",
    "warmup": 0.0, "weight_decay": 0.0, "momentum": 0.0,
}  # fmt: skip
MOST_APART = 1e-4  # of the weights after one step, which is what their gradients moved them by
BAND = 0.02  # of the loss in each epoch


def run() -> tuple[str, bool]:
    """The table, and whether gradients and losses agree."""
    held = fashion.data()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    losses: dict[int, list[float]] = {}
    with room() as place:
        model = place.program(plain(), (1, 28, 28))
        data = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
        one_batch = {"train": place.data(held.train[:200], held.train_labels[:200])}
        moved = {}
        for processes in (1, 2):
            params = {**TRAINING, "epochs": 1, "distributed": {"processes": processes}}
            made, _ = place.apply("finetune", model, params, one_batch)
            moved[processes] = weights(made)
        before = weights(model)
        apart = max(
            float(
                torch.linalg.vector_norm(moved[2][name] - moved[1][name])
                / torch.linalg.vector_norm(moved[1][name] - before[name])
            )
            for name in before
        )
        for turn in range(TURNS):
            for processes in (1, 2) if turn % 2 else (2, 1):
                params = {**TRAINING, "distributed": {"processes": processes}}
                _, facts = place.apply("finetune", model, params, data)
                told = facts["training"]
                seconds[processes].append(1 / told["samples_per_second"])
                losses[processes] = [epoch["loss"] for epoch in told["history"]]
    ratios = sorted(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    band = max(abs(one - two) / one for one, two in zip(losses[1], losses[2], strict=True))
    rows = [
        ("a step's gradients apart, relative, the layer that is worst", f"{apart:.1e}"),
        ("the loss of an epoch apart, at most", f"{band:.2%}"),
        (
            f"faster by, on {usable_processors()} processors",
            f"{ratios[len(ratios) // 2]:.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        ),
    ]
    text = table(("two processes beside one", ""), rows)
    text += "\n\nOne process computes with as many threads as there are processors; so the second process brings what threads leave."
    return text, apart <= MOST_APART and band <= BAND


def weights(model: ModelHandle) -> dict[str, Tensor]:
    """A program's parameters by name."""
    return {name: one.detach() for name, one in load_program(model.path).program.named_parameters()}
