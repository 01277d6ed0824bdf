"""Small networks of each kind as ONNX, exported once a session, with data for calibration."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.workers.engines.networks import ArraySamples
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx

BATCH = 2
KINDS = ("cnn", "lstm", "encoder")


class Cnn(torch.nn.Module):
    """Convolutions with a residual, pooled, and a linear head."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.third = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.third(torch.relu(self.second(x))) + x)
        return self.head(x.mean((2, 3)))


class Lstm(torch.nn.Module):
    """An LSTM over eight steps and a linear head."""

    shape = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(16, 32, batch_first=True)
        self.head = torch.nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(torch.nn.Module):
    """One layer of a transformer's encoder and a linear head."""

    shape = (8, 32)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = torch.nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


_NETWORKS: dict[str, Any] = {"cnn": Cnn, "lstm": Lstm, "encoder": Encoder}


@dataclass(frozen=True)
class Exported:
    """A network with its batch free or fixed at 2, and inputs for it: `x`, [16, …]."""

    model: ModelHandle
    x: np.ndarray

    @property
    def data(self) -> ArraySamples:
        """The inputs as a dataset."""
        return ArraySamples({"x": self.x}, np.zeros(len(self.x), np.int64))


def exported(kind: str, shapes: str, folder: Path) -> Exported:
    """A network of a kind, `shapes` static or dynamic, exported into a folder."""
    torch.manual_seed(0)
    network = _NETWORKS[kind]().eval()
    free = ({0: torch.export.Dim("batch", min=1, max=64)},) if shapes == "dynamic" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network,
            (torch.randn(BATCH, *network.shape),),
            input_names=["x"],
            output_names=["y"],
            dynamo=True,
            dynamic_shapes=free,
            verbose=False,
        )
    x = np.random.default_rng(0).standard_normal((16, *network.shape)).astype(np.float32)
    return Exported(save_onnx(program.model_proto, folder), x)
