"""The demo's model and data: a small convolutional network, trained on scikit-learn's handwritten digits.

The data are 1,797 digits of 8 by 8 pixels from the test set of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998).
"""

import itertools
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 7
EVALUATION_SAMPLES = 600
CALIBRATION_SAMPLES = 256
CHANNELS = 128
EPOCHS = 6
BATCH = 64
INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class Split:
    """Images of shape (samples, 1, 8, 8) in 0..1 and their digits, apart for training and evaluation."""

    train: np.ndarray
    train_labels: np.ndarray
    evaluation: np.ndarray
    evaluation_labels: np.ndarray


class DigitsNet(nn.Module):
    """Four 3×3 convolutions of 32 to 128 channels, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, CHANNELS // 4, CHANNELS // 2, CHANNELS, CHANNELS]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(CHANNELS, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of shape (samples, 10)."""
        return self.classifier(self.features(image))


def load() -> Split:
    """The digits, split with a fixed seed; each digit has its share on both sides."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    train, evaluation, train_labels, evaluation_labels = train_test_split(
        images,
        digits.target.astype(np.int64),
        test_size=EVALUATION_SAMPLES,
        random_state=SEED,
        stratify=digits.target,
    )
    return Split(train, train_labels, evaluation, evaluation_labels)


def train(split: Split, epochs: int = EPOCHS) -> DigitsNet:
    """A trained network in evaluation mode; the same on every run of one machine, however many cores it has."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # of two threads on a busy machine each waits for the other, at every layer
    net = DigitsNet()
    images, labels = torch.from_numpy(split.train), torch.from_numpy(split.train_labels)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net: DigitsNet, split: Split) -> float:
    """The share of evaluation digits that the network names."""
    with torch.no_grad():
        named = net(torch.from_numpy(split.evaluation)).argmax(1).numpy()
    return float((named == split.evaluation_labels).mean())


def export(net: DigitsNet, path: Path) -> onnx.ModelProto:
    """Write the network as ONNX with a free batch size; what was written, read back."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (given,) = model.graph.input
    if given.name != INPUT or not given.type.tensor_type.shape.dim[0].dim_param:
        raise RuntimeError(f"the exporter wrote another input than asked for: {given.name}")
    return model


def write_data(split: Split, folder: Path) -> tuple[Path, Path]:
    """Calibration data (training rows alone) and labelled evaluation data, as the service reads them."""
    calibration, evaluation = folder / "calibration.npz", folder / "evaluation.npz"
    np.savez(calibration, **{INPUT: split.train[:CALIBRATION_SAMPLES]})
    np.savez(evaluation, **{INPUT: split.evaluation, "labels": split.evaluation_labels})
    return calibration, evaluation
