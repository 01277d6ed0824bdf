"""What cannot be trained is said before or where it shows: which sample, layer, output or parameter, and what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.catalog.pass_params.training import TrainingParams
from app.errors import (
    BurnishError,
    IncompatibleRecipe,
    InvalidDataset,
    InvalidModel,
    InvalidParams,
    SignatureMismatch,
)
from tests.workers.datasets.files import files, parquet, png, tar
from tests.workers.training.arrays import LOGITS, digits, program, train_arrays
from workers.assignment import DatasetFiles
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.samples import open_samples
from workers.training.classes import check_classes
from workers.training.passing import train_in_pass
from workers.training.rank import check_params, output_of

IMAGES, CLASSES = digits(256)


def refused(error: type[BurnishError], *words: str, run: Callable[[], Any]) -> BurnishError:
    """What `run` raises: of this class, with these words, with a hint and a stage."""
    with pytest.raises(error) as refusal:
        run()
    assert type(refusal.value) is error
    for word in words:
        assert word in refusal.value.detail, refusal.value.detail
    assert refusal.value.hint
    assert refusal.value.stage == "training"
    return refusal.value


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., None]:
    """`train(**…)`: to the end, of a network that is given or of the digits' one."""

    def run(network: nn.Module | None = None, outputs: Any = None, **given: Any) -> None:
        model = program(tmp_path / "model", network, outputs=outputs)
        loop, _ = train_arrays(model, tmp_path, **{"data": (IMAGES, CLASSES), "epochs": 2, **given})
        loop.run()

    return run


def changed(array: np.ndarray, row: int, value: Any) -> np.ndarray:
    copied = array.copy()
    copied[row] = value
    return copied


def test_no_labels(train: Callable[..., None]):
    refused(InvalidDataset, "no labels", run=lambda: train(data=(IMAGES, None)))


def test_a_label_that_is_no_class(train: Callable[..., None]):
    told = refused(
        InvalidDataset, "sample 17 ", " 10;", "'logits'", "0 to 9", run=lambda: train(data=(IMAGES, changed(CLASSES, 17, 10)))
    )  # fmt: skip
    assert told.param == "labels"


def test_labels_of_another_shape(train: Callable[..., None]):
    numbers = np.zeros((256, 3), np.float32)
    refused(SignatureMismatch, "'logits'", "[10]", "[3]", run=lambda: train(data=(IMAGES, numbers)))


def npz(root: Path, labels: np.ndarray) -> DatasetFiles:
    np.savez(root / "data.npz", images=np.zeros((len(labels), 2), np.float32), labels=labels)
    return files(root, "npz")


def compressed(root: Path, labels: np.ndarray) -> DatasetFiles:
    np.savez_compressed(root / "data.npz", images=np.zeros((len(labels), 2), np.float32), labels=labels)
    return files(root, "npz")


def rows(root: Path, labels: np.ndarray) -> DatasetFiles:
    """Only the first sample's image is one."""
    return parquet(root, {"image": _pictures(len(labels)), "labels": labels})


def pictures(root: Path, labels: np.ndarray) -> DatasetFiles:
    """Only the first sample's image is one."""
    members = []
    for number, (image, label) in enumerate(zip(_pictures(len(labels)), labels, strict=True)):
        members += [(f"{number}.png", image), (f"{number}.cls", str(label).encode())]
    return tar(root, members)


def _pictures(count: int) -> list[bytes]:
    return [png(np.zeros((2, 2, 3), np.uint8)), *[b"no image"] * (count - 1)]


LABELLED = pytest.mark.parametrize(
    "make", [npz, compressed, rows, pictures], ids=["npz", "compressed", "parquet", "tar"]
)


@LABELLED
def test_one_class_only_is_found_in_the_labels_alone(tmp_path: Path, make: Callable[..., DatasetFiles]):
    samples = open_samples(make(tmp_path, np.full(256, 4)))
    told = refused(InvalidDataset, "256", "label 4", run=lambda: check_classes(samples))
    assert told.param == "labels"


@LABELLED
def test_one_class_and_one_other_sample_is_enough(tmp_path: Path, make: Callable[..., DatasetFiles]):
    check_classes(open_samples(make(tmp_path, changed(np.full(256, 4), 255, 3))))


def test_numbers_may_all_be_the_same(tmp_path: Path):
    check_classes(open_samples(npz(tmp_path, np.ones(8, np.float32))))


def test_one_class_only_ends_a_pass_before_it_trains(tmp_path: Path):
    ctx = PassContext(out=tmp_path, samples={"train": open_samples(npz(tmp_path, np.full(256, 4)))})
    model = ModelHandle(tmp_path, "absent.pt2", "torch-export", "")

    def run() -> None:
        with train_in_pass("finetune", model, TrainingParams(), ctx):
            pass

    refused(InvalidDataset, "label 4", run=run)


def test_fewer_samples_than_a_batch(train: Callable[..., None]):
    told = refused(InvalidDataset, "256", "300", run=lambda: train(batch_size=300))
    assert told.param == "batch_size"


def test_a_sample_that_is_not_finite(train: Callable[..., None]):
    images = changed(IMAGES, 99, np.nan)
    refused(InvalidDataset, "sample 99 ", "'images'", "step", run=lambda: train(data=(images, CLASSES)))


def test_a_label_that_is_not_finite(train: Callable[..., None]):
    numbers = changed(np.zeros((256, 10), np.float32), 41, np.inf)
    refused(InvalidDataset, "sample 41 ", "label", run=lambda: train(data=(IMAGES, numbers)))


class Logarithm(nn.Module):
    """Takes the logarithm of what a layer gives, which is below 0 now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)
        self.tail = nn.Linear(10, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tail(torch.log(self.body(images.flatten(1))))


def test_a_layer_that_is_not_finite_from_the_start(train: Callable[..., None]):
    told = refused(InvalidModel, "first step", "'log'", run=lambda: train(Logarithm()))
    assert told.node == "log"


class Squares(nn.Module):
    """Grows with the fourth power of its weights: a high rate makes it overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images.flatten(1)) ** 4


def test_training_that_diverges(train: Callable[..., None]):
    told = refused(
        InvalidParams, "diverged", "at step ", "'pow_1'", run=lambda: train(
            Squares(), loss="mse", data=(IMAGES, np.eye(10, dtype=np.float32)[CLASSES]), optimizer="sgd", learning_rate=100.0,
            clip_norm=None, warmup=0.0, epochs=5,
        ),
    )  # fmt: skip
    assert told.param == "learning_rate"
    assert "clip_norm" in (told.hint or "")


class Root(nn.Module):
    """Has a finite output whose derivative is not: the root of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(self.body(images.flatten(1)) * 0)


def test_a_gradient_that_is_not_finite(train: Callable[..., None]):
    refused(InvalidModel, "a gradient is not finite", "first step", run=lambda: train(Root()))


class Fixed(nn.Module):
    """Has no weights."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10] * 2


def test_nothing_to_train(train: Callable[..., None]):
    refused(IncompatibleRecipe, "no weights", run=lambda: train(Fixed()))


class Two(nn.Module):
    """Scores and the class that they choose; and a sum that no weight changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = self.body(images.flatten(1))
        return scores, scores.argmax(1), images.flatten(1)[:, :10]


TWO = (
    LOGITS,
    {"name": "class", "dtype": "int64", "shape": ["batch"]},
    {"name": "pixels", "dtype": "float32", "shape": ["batch", 10]},
)


def test_an_output_that_no_weight_changes(train: Callable[..., None]):
    told = refused(InvalidParams, "'pixels'", run=lambda: train(Two(), outputs=TWO, output="pixels"))
    assert told.param == "output"


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        ("nothing", SignatureMismatch, "no output called 'nothing'"),
        ("class", InvalidParams, "int64"),
        (None, InvalidParams, "3 outputs"),
    ],
    ids=["unknown", "integers", "several"],
)
def test_outputs_that_cannot_be_trained(output: str | None, error: type[BurnishError], words: str):
    with pytest.raises(error) as refusal:
        output_of(TrainingParams(output=output), TWO)

    assert words in refusal.value.detail
    assert refusal.value.param == "output"
    assert refusal.value.hint


def test_the_output_that_is_named_is_trained(train: Callable[..., None]):
    train(Two(), outputs=TWO, output="logits")


def test_tokens_beyond_the_table(train: Callable[..., None]):
    """Whatever the network raises is told with the samples' share in it."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.table((images.flatten(1).abs() * 10).long()).mean(1)

    refused(InvalidModel, "64 samples", "index", run=lambda: train(Table(), data=(IMAGES * 1000, CLASSES)))


def test_a_batch_norm_of_one_sample(train: Callable[..., None]):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    told = refused(InvalidParams, "batch norm", run=lambda: train(network, batch_size=4, accumulate=4))
    assert told.param == "batch_size"


@pytest.mark.parametrize(
    ("params", "processes", "param"),
    [
        ({"batch_size": 10, "accumulate": 4}, 1, "batch_size"),
        ({"batch_size": 12, "accumulate": 4}, 2, "batch_size"),
        ({"patience": 3}, 1, "patience"),
        ({"metric": "top1"}, 1, "metric"),
    ],
    ids=["parts", "parts-and-processes", "patience", "metric"],
)
def test_parameters_that_do_not_fit(params: dict[str, Any], processes: int, param: str):
    told = refused(
        InvalidParams, param, run=lambda: check_params(TrainingParams(**params), processes, validation=False)
    )
    assert told.param == param


def test_a_metric_that_does_not_fit(train: Callable[..., None]):
    held = (IMAGES, CLASSES)
    refused(InvalidParams, "snr", "two models", run=lambda: train(validation=held, metric="snr"))
    unlabelled: Any = (IMAGES, None)
    refused(InvalidDataset, "top1", "labels", run=lambda: train(validation=unlabelled, metric="top1"))


def test_validation_labels_that_are_no_classes(train: Callable[..., None]):
    with pytest.raises(InvalidDataset) as refusal:
        train(validation=(IMAGES, changed(CLASSES, 30, 12)), metric="top1")
    assert "sample 30 " in refusal.value.detail
