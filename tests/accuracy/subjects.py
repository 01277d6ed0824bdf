"""The trained networks, as users upload them: an exported program, calibration data of the training half, labelled test data."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.accuracy import digits, fashion, sentiment
from tests.accuracy.images import Split

CALIBRATION_SAMPLES = 512


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode and its data: arrays by input; those of `evaluation` with `labels`."""

    net: nn.Module
    calibration: Mapping[str, np.ndarray]
    evaluation: Mapping[str, np.ndarray]

    def export(self, path: Path) -> Path:
        """Write the network as a `.pt2` with a free batch."""
        example = tuple(torch.from_numpy(array[:2]) for array in self.calibration.values())
        batch = torch.export.Dim("batch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.export.export(
                self.net, example, dynamic_shapes={name: {0: batch} for name in self.calibration}
            )
            torch.export.save(program, path)
        return path


def _images(net: nn.Module, split: Split, name: str) -> Subject:
    return Subject(
        net, {name: split.train[:CALIBRATION_SAMPLES]}, {name: split.test, "labels": split.test_labels}
    )


def _fashion() -> Subject:
    split = fashion.data()
    return _images(fashion.trained(split), split, "image")


def _digits() -> Subject:
    return _images(digits.published(), digits.data(), "x")


def _sentiment() -> Subject:
    fitting, test = sentiment.data()
    some = fitting.rows(slice(0, CALIBRATION_SAMPLES))
    return Subject(
        sentiment.probe(fitting),
        {"input_ids": some.input_ids, "attention_mask": some.attention_mask},
        {"input_ids": test.input_ids, "attention_mask": test.attention_mask, "labels": test.labels},
    )


# each raises NotFetched where its data is not to be had
SUBJECTS: dict[str, Callable[[], Subject]] = {
    "fashion": _fashion,
    "digits": _digits,
    "sentiment": _sentiment,
}
