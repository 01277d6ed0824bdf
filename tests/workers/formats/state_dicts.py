"""Weights of small networks as people save them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from workers.formats.base import Source
from workers.formats.state_dict import StateDict
from workers.torch import zoo
from workers.torch.opened import OpenedTorch

LEAST_SQNR_DB = 80
SMALL = "resnet20_cifar10"  # takes 32×32
Save = Callable[[Any, Path], None]


def torch_zip(weights: Any, file: Path) -> None:
    torch.save(weights, file)


def torch_old(weights: Any, file: Path) -> None:
    torch.save(weights, file, _use_new_zipfile_serialization=False)


def safetensors(weights: Any, file: Path) -> None:
    save_file(dict(weights), file)


FORMS: dict[str, Save] = {"zip": torch_zip, "old": torch_old, "safetensors": safetensors}


def trained(architecture: str) -> torch.nn.Module:
    """A network whose every weight and batch statistic is another than a new one has."""
    torch.manual_seed(7)
    network = zoo.parse(architecture).build()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.mul_(torch.empty_like(value).uniform_(0.8, 1.2)).add_(0.01)
    return network


def saved(weights: Any, folder: Path, save: Save = torch_zip) -> Path:
    file = folder / StateDict.file_name
    save(weights, file)
    return file


def opened(file: Path, architecture: str | None, **declared: Any) -> OpenedTorch:
    assert StateDict().recognizes(file)
    told = {"architecture": architecture, **declared} if architecture else declared
    return StateDict().open(Source(file.parent, file.name, told))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)
