"""Losses against numpy's own arithmetic, and what does not fit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.errors import BurnishError, InvalidDataset, SignatureMismatch
from tests.workers.training.arrays import program
from workers.torch.model import TorchModel
from workers.training.losses import LOSSES, Loss, labelled_loss
from workers.training.network import open_network

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.standard_normal((6, 5)).astype(np.float32)
CLASSES = np.array([0, 4, 2, 2, 1, 3])
SHARES = RANDOM.dirichlet(np.ones(5), 6).astype(np.float32)
ROWS = torch.arange(100, 106)


def found(loss: Loss, output: np.ndarray, labels: np.ndarray) -> float:
    return float(loss(torch.from_numpy(output), torch.from_numpy(labels), ROWS))


def logs(scores: np.ndarray) -> np.ndarray:
    held = scores.astype(np.float64)
    return held - np.log(np.exp(held).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_and_of_shares(smoothing: float):
    loss = Loss("cross-entropy", "logits", smoothing)
    hard = (1 - smoothing) * np.eye(5)[CLASSES] + smoothing / 5
    soft = (1 - smoothing) * SHARES + smoothing / 5

    assert found(loss, SCORES, CLASSES) == pytest.approx(-(hard * logs(SCORES)).sum(-1).mean(), rel=1e-5)
    assert found(loss, SCORES, SHARES) == pytest.approx(-(soft * logs(SCORES)).sum(-1).mean(), rel=1e-5)
    assert found(loss, SCORES, CLASSES[:, None]) == found(loss, SCORES, CLASSES)


def test_cross_entropy_of_probabilities_is_that_of_their_scores():
    probabilities = np.exp(logs(SCORES)).astype(np.float32)
    loss = Loss("cross-entropy", "probabilities", of_probabilities=True)

    assert found(loss, probabilities, CLASSES) == pytest.approx(
        found(Loss("cross-entropy", "logits"), SCORES, CLASSES), rel=1e-5
    )


def test_classes_of_positions_lie_last_or_second():
    loss = Loss("cross-entropy", "logits")
    scores = RANDOM.standard_normal((6, 7, 5)).astype(np.float32)
    classes = RANDOM.integers(0, 5, (6, 7))
    expected = -np.take_along_axis(logs(scores), classes[..., None], -1).mean()

    assert found(loss, scores, classes) == pytest.approx(expected, rel=1e-5)
    assert found(loss, np.ascontiguousarray(scores.transpose(0, 2, 1)), classes) == pytest.approx(
        expected, rel=1e-5
    )


def test_binary_cross_entropy():
    truths = RANDOM.integers(0, 2, (6, 5))
    sure = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    expected = -(truths * np.log(sure) + (1 - truths) * np.log(1 - sure)).mean()

    assert found(Loss("binary-cross-entropy", "x"), SCORES, truths) == pytest.approx(expected, rel=1e-5)
    likely = Loss("binary-cross-entropy", "x", of_probabilities=True)
    assert found(likely, sure.astype(np.float32), truths.astype(bool)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", lambda off: (off**2).mean()),
        ("l1", lambda off: np.abs(off).mean()),
        ("smooth-l1", lambda off: np.where(np.abs(off) < 1, off**2 / 2, np.abs(off) - 0.5).mean()),
    ],
    ids=["mse", "l1", "smooth-l1"],
)
def test_losses_of_numbers(name: str, expected: Any):
    wanted = RANDOM.standard_normal((6, 5)).astype(np.float32)

    assert found(Loss(name, "x"), SCORES, wanted) == pytest.approx(expected(SCORES - wanted), rel=1e-5)
    column = SCORES[:, :1]
    assert found(Loss(name, "x"), column, wanted[:, 0]) == pytest.approx(
        expected(column - wanted[:, :1]), rel=1e-5
    )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_is_no_loss_of_precision(name: str):
    """Outputs come in fp16 from under autocast; the loss computes in float32, and gradients reach them."""
    output = torch.full((2, 3), 50.0, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        value = Loss(name, "x")(output, torch.zeros(2, 3), ROWS)

    assert value.dtype == torch.float32
    value.backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()


BAD = {
    "class-too-large": ("cross-entropy", np.array([0, 1, 7, 1, 1, 1]), InvalidDataset, ["sample 102", "7", "0 to 4"]),
    "class-below-0": ("cross-entropy", np.array([0, 1, 2, 1, 1, -1]), InvalidDataset, ["sample 105", "-1"]),
    "class-of-a-position": ("cross-entropy", np.zeros((6, 3), np.int64), SignatureMismatch, ["'x'", "[5]", "[3]"]),
    "shares-of-other-classes": ("cross-entropy", np.zeros((6, 4), np.float32), SignatureMismatch, ["[4]"]),
    "no-truth": ("binary-cross-entropy", np.full((6, 5), 2.0, np.float32), InvalidDataset, ["sample 100"]),
    "other-shape": ("mse", np.zeros((6, 3), np.float32), SignatureMismatch, ["[5]", "[3]", "mse"]),
    "numbers-turned": ("l1", np.zeros((6, 1), np.float32), SignatureMismatch, ["[1]"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "labels", "error", "words"), BAD.values(), ids=BAD.keys())
def test_labels_that_do_not_fit(name: str, labels: np.ndarray, error: type[BurnishError], words: list[str]):
    with pytest.raises(error) as refusal:
        found(Loss(name, "x"), SCORES, labels)

    assert all(word in refusal.value.detail for word in words), refusal.value.detail
    assert refusal.value.hint
    assert refusal.value.stage == "training"


class Ending(nn.Module):
    """A linear layer and what comes behind it: (n, 1, 8, 8) to (n, width)."""

    def __init__(self, width: int, end: nn.Module):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.end = end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(images))


@pytest.fixture
def ending(tmp_path: Any) -> Any:
    """`ending(width, end)`: the opened network."""

    def make(width: int, end: nn.Module) -> TorchModel:
        entry = {"name": "y", "dtype": "float32", "shape": ["batch", width]}
        return open_network(program(tmp_path, Ending(width, end), outputs=[entry]))

    return make


AUTO = {
    "classes": (10, nn.Identity(), "int64", [], "cross-entropy", False),
    "classes-of-softmax": (10, nn.Softmax(-1), "uint8", [], "cross-entropy", True),
    "one-number": (1, nn.Identity(), "int64", [], "binary-cross-entropy", False),
    "one-of-sigmoid": (1, nn.Sigmoid(), "int32", [1], "binary-cross-entropy", True),
    "truths": (10, nn.Sigmoid(), "bool", [10], "binary-cross-entropy", True),
    "numbers": (10, nn.Identity(), "float32", [10], "mse", False),
    "numbers-of-sigmoid": (10, nn.Sigmoid(), "float64", [10], "mse", False),
}


@pytest.mark.parametrize(
    ("width", "end", "dtype", "shape", "name", "probable"), AUTO.values(), ids=AUTO.keys()
)
def test_auto_is_what_labels_are_for(
    width: int, end: nn.Module, dtype: str, shape: list[int], name: str, probable: bool, ending: Any
):
    loss = labelled_loss("auto", ending(width, end), "y", {"dtype": dtype, "shape": shape})

    assert (loss.name, loss.of_probabilities) == (name, probable)


def test_no_labels(ending: Any):
    with pytest.raises(InvalidDataset) as refusal:
        labelled_loss("auto", ending(10, nn.Identity()), "y", None)

    assert "labels" in refusal.value.detail
    assert "distill" in (refusal.value.hint or "")
