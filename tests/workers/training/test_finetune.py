"""The pass `finetune`, from a `.pt2` and an uploaded dataset to a `.pt2` that knows more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.pass_params.finetune import FinetuneParams
from app.errors import BurnishError, InvalidDataset, InvalidParams, SignatureMismatch
from tests.workers.engines.networks import ArraySamples, answers, signature
from tests.workers.training.arrays import digits, program
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes.finetune import apply
from workers.torch.program import load_program, runner
from workers.training.scalars import EVENTS, LINES

LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}
TRAIN, HELD, TEST = digits(900), digits(300, 900), digits(597, 1200)


class Kept:
    """See `context.Checkpoint`: in memory of where it lies. Breaks the attempt off after some."""

    def __init__(self, root: Path, until: int | None = None):
        self.root, self.until, self.folders = root, until, list[Path]()

    def last(self) -> Path | None:
        return self.folders[-1] if self.folders else None

    def keep(self, folder: Path) -> None:
        self.folders.append(shutil.copytree(folder, self.root / f"kept{len(self.folders)}"))
        if self.until is not None and len(self.folders) >= self.until:
            raise KeyboardInterrupt


@pytest.fixture
def samples(tmp_path: Path) -> Callable[..., Samples]:
    """`samples(images, labels)`: as an uploaded `.npz`."""
    count = 0

    def make(images: np.ndarray, labels: np.ndarray | None) -> Samples:
        nonlocal count
        count += 1
        return ArraySamples({"images": images}, labels).filed(tmp_path / f"data{count}")

    return make


@pytest.fixture
def finetune(tmp_path: Path) -> Callable[..., tuple[ModelHandle, PassContext]]:
    """`finetune(model, samples by role, **params)`: the new model, and the context with facts, files and warnings."""
    count = 0

    def run(
        model: ModelHandle, given: dict[str, Samples], checkpoint: Any = None, **params: Any
    ) -> tuple[ModelHandle, PassContext]:
        nonlocal count
        count += 1
        folders = {name: tmp_path / f"{name}{count}" for name in ("out", "aside", "work")}
        for folder in folders.values():
            folder.mkdir()
        context = PassContext(samples=given, **folders)
        if checkpoint is not None:
            context.checkpoint, context.checkpoint_seconds = checkpoint, 0.0
        chosen = FinetuneParams(**{"loader": LOADER, **params})
        return apply(model, chosen, context), context

    return run


def handle(folder: Path, **given: Any) -> ModelHandle:
    """A model that knows nothing."""
    path = program(folder, **given)
    return ModelHandle(path.parent, path.name, "torch-export", tree_digest(path.parent))


def top1(model: ModelHandle, size: int = len(TEST[0])) -> float:
    run = runner(load_program(model.path))
    found = [
        run({"images": TEST[0][start : start + size]})["logits"]
        for start in range(0, len(TEST[0]) - size + 1, size)
    ]
    return float(np.mean(np.concatenate(found).argmax(1) == TEST[1][: len(found) * size]))


def test_it_learns_and_says_how(finetune: Callable, samples: Callable, tmp_path: Path):
    model = handle(tmp_path / "model")
    given = {"train": samples(*TRAIN), "validation": samples(*HELD)}
    made, context = finetune(model, given, epochs=8, learning_rate=1e-2, metric="top1", ema_decay=0.9)

    assert top1(model) < 0.3
    assert top1(made) > 0.9
    assert signature(made) == signature(model)
    assert tree_digest(model.root) == model.digest
    told = context.facts["training"]
    assert told["steps"] == 8 * (900 // 64)
    assert told["metric"] == "top1"
    assert told["best"] > 0.9
    assert len(told["history"]) == 8
    json.dumps(context.facts, allow_nan=False)
    assert context.warnings == []
    sentence, reading = context.told
    assert "8 epochs (112 steps)" in sentence
    assert f"{told['best']:.4g}" in sentence
    assert "samples/s" in reading
    assert sorted(file.name for file in context.aside.iterdir()) == sorted([EVENTS, LINES])
    rows = [json.loads(line) for line in (context.aside / LINES).read_text().splitlines()]
    assert [row["epoch/score"] for row in rows if "epoch/score" in row] == [
        epoch["score"] for epoch in told["history"]
    ]


def test_the_weights_that_were_scored_best_are_left(finetune: Callable, samples: Callable, tmp_path: Path):
    """Scored again from outside, on the validation data."""
    given = {"train": samples(*TRAIN), "validation": samples(*TEST)}
    made, context = finetune(handle(tmp_path / "model"), given, epochs=4, metric="top1", learning_rate=5e-3)

    assert top1(made) == pytest.approx(context.facts["training"]["best"])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_stays_fixed_and_learns(
    batch: int, finetune: Callable, samples: Callable, tmp_path: Path
):
    model = handle(tmp_path / "model", batch=batch)
    made, _ = finetune(model, {"train": samples(*TRAIN)}, epochs=5, learning_rate=1e-2)

    assert signature(made) == signature(model)
    assert signature(made)["inputs"][0][2] == [batch, 1, 8, 8]
    assert top1(made, batch) > 0.85


def test_an_attempt_goes_on_from_what_another_kept(finetune: Callable, samples: Callable, tmp_path: Path):
    model = handle(tmp_path / "model")
    given = {"train": samples(*TRAIN), "validation": samples(*HELD)}
    params = {"epochs": 4, "metric": "top1"}
    whole, _ = finetune(model, given, **params)
    kept = Kept(tmp_path / "kept", until=2 * (900 // 64))
    with pytest.raises(KeyboardInterrupt):
        finetune(model, given, checkpoint=kept, **params)
    kept.until = None
    again, context = finetune(model, given, checkpoint=kept, **params)

    assert context.facts["training"]["resumed_from"] == [2 * (900 // 64)]
    assert again.digest == whole.digest


def test_training_that_makes_nothing_better_is_told(finetune: Callable, samples: Callable, tmp_path: Path):
    given = {"train": samples(*TRAIN), "validation": samples(*HELD)}
    good, _ = finetune(handle(tmp_path / "model"), given, epochs=8, learning_rate=1e-2, metric="top1")
    same, context = finetune(
        good, given, epochs=1, learning_rate=100.0, optimizer="sgd", clip_norm=None, warmup=0.0, metric="top1"
    )

    assert answers(same, {"images": TEST[0]})["logits"] == pytest.approx(
        answers(good, {"images": TEST[0]})["logits"]
    )
    assert any("no epoch was better" in text for text in context.warnings)


def test_numbers_are_learned_too(finetune: Callable, samples: Callable, tmp_path: Path):
    """The mean squared error against one number for each class, by `auto`; scored by the mean absolute error."""
    numbers, held = (np.eye(10, dtype=np.float32)[labels] for _, labels in (TRAIN, HELD))
    given = {"train": samples(TRAIN[0], numbers), "validation": samples(HELD[0], held)}
    made, context = finetune(handle(tmp_path / "model"), given, epochs=8, learning_rate=1e-2, metric="mae")

    told = context.facts["training"]
    assert told["best"] == min(epoch["score"] for epoch in told["history"]) < told["before"] * 0.7
    assert top1(made) > 0.85


def test_random_transforms_are_drawn(finetune: Callable, samples: Callable, tmp_path: Path):
    model, data = handle(tmp_path / "model"), {"train": samples(*TRAIN)}
    steps = [{"do": "random-crop", "padding": 1}, {"do": "mixup"}]
    plain, first, second = (
        finetune(model, data, epochs=1, augment=augment)[0] for augment in ([], steps, steps)
    )

    assert first.digest == second.digest != plain.digest


REFUSED = {
    "no-labels": ((TRAIN[0], None), {}, InvalidDataset, "no labels"),
    "one-class": ((TRAIN[0], np.zeros(900, np.int64)), {}, InvalidDataset, "label 0"),
    "class-out-of-range": (
        (TRAIN[0], np.where(np.arange(900) == 77, 11, TRAIN[1])), {}, InvalidDataset, "sample 77 "
    ),
    "not-finite": (
        (np.where(np.arange(900)[:, None, None, None] == 5, np.float32("nan"), TRAIN[0]), TRAIN[1]),
        {}, InvalidDataset, "sample 5 ",
    ),
    "batch-too-large": (TRAIN, {"batch_size": 901}, InvalidDataset, "900"),
    "no-such-output": (TRAIN, {"output": "boxes"}, SignatureMismatch, "'boxes'"),
    "patience-without-validation": (TRAIN, {"patience": 2}, InvalidParams, "validation"),
    "metric-without-validation": (TRAIN, {"metric": "top1"}, InvalidParams, "validation"),
    "uneven-parts": (TRAIN, {"accumulate": 5}, InvalidParams, "accumulate=5"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "params", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input(
    data: tuple[np.ndarray, Any],
    params: dict[str, Any],
    error: type[BurnishError],
    words: str,
    finetune: Callable,
    samples: Callable,
    tmp_path: Path,
):
    with pytest.raises(error) as refusal:
        finetune(handle(tmp_path / "model"), {"train": samples(*data)}, epochs=1, **params)

    assert words in refusal.value.detail
    assert refusal.value.hint
