"""Small networks of the kinds that people have, and what they are fed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workers.torch.program import TorchModel

Signature = Sequence[tuple[str, str, list[Any]]]


def model(module: nn.Module, inputs: Signature, outputs: Signature = ()) -> TorchModel:
    """A network in eval mode with its signature, given as (name, dtype, shape)."""
    sides = [
        tuple({"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in side)
        for side in (inputs, outputs)
    ]
    return TorchModel(module.eval(), sides[0], sides[1])


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after some training: with statistics and scales that are not 0 and 1."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for tensor, low in (
                    (part.running_mean, -0.5),
                    (part.running_var, 0.5),
                    (part.weight, 0.5),
                    (part.bias, -0.5),
                ):
                    if tensor is not None:
                        tensor.uniform_(low, low + 1, generator=random)
    return module


class Residual(nn.Module):
    """Two convolutions with batch norms around an addition."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=2),
            nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(x + self.body(x))


def cnn() -> nn.Module:
    """A small residual network with dropout: (n, 3, h, w) to (n, 5)."""
    torch.manual_seed(0)
    return lived_in(
        nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            Residual(8),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.GroupNorm(3, 6),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(6, 5),
        )
    ).eval()


class Recurrent(nn.Module):
    """Embedding, LSTM in both directions, GRU and a classifier: ids (n, 7) to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(ids))
        _, last = self.gru(states)
        return self.head(last[-1])


def recurrent() -> nn.Module:
    """A `Recurrent` with seeded weights."""
    torch.manual_seed(0)
    return Recurrent().eval()


class Bert(nn.Module):
    """A tiny BERT of transformers with a head that shares the embeddings' weights: (n, s) ids and mask to (n, s, 120)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            vocab_size=120,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
        )
        self.bert = BertForMaskedLM(config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits


def bert() -> nn.Module:
    """A `Bert` with seeded weights."""
    torch.manual_seed(0)
    return Bert().eval()


def transformer() -> nn.Module:
    """Two of torch's own encoder layers: (n, s, 16) to (n, s, 16)."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def zoo(name: str) -> nn.Module:
    """One of pytorchcv's classifiers for images of 64 by 64, its last pooling made to fit."""
    from pytorchcv.models.efficientnet import efficientnet_b0
    from pytorchcv.models.mobilenetv2 import mobilenetv2_wd4
    from pytorchcv.models.resnet import resnet18_wd4
    from pytorchcv.models.shufflenetv2 import shufflenetv2_wd2

    known = {
        "resnet18_wd4": resnet18_wd4,
        "mobilenetv2_wd4": mobilenetv2_wd4,
        "shufflenetv2_wd2": shufflenetv2_wd2,
        "efficientnet_b0": efficientnet_b0,
    }
    torch.manual_seed(0)
    network: nn.Module = known[name](num_classes=10)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    return lived_in(network).eval()
