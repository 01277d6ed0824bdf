"""Networks of the zoo and of transformers, pruned at random: valid, of the same signature, as costly as told, able to export."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.workers.surgery.cutting import (
    answers,
    lifted,
    onnx_flops,
    silenced,
    some_units,
    units_of,
    without,
)
from workers.surgery.channels import Coupling, couple
from workers.surgery.counting import layers, totals
from workers.torch.model import TorchModel

Make = Callable[[], nn.Module]


def zoo(module: str, name: str, **settings: object) -> Make:
    def make() -> nn.Module:
        from importlib import import_module

        return getattr(import_module(f"pytorchcv.models.{module}"), name)(num_classes=10, **settings)

    return make


def vgg() -> nn.Module:
    """Convolutions in a row, an image flattened, two wide linear layers."""
    widths, parts = [3, 8, 8, 16], []
    for before, after in pairwise(widths):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *parts, nn.Flatten(), nn.Linear(16 * 16, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 7)
    )


class Bert(nn.Module):
    """The first word of two layers of BERT, under a head of its own."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(
            BertConfig(
                vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                max_position_embeddings=40, attn_implementation=attention,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        self.head = nn.Linear(32, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.bert(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return self.head(found[:, 0])


def check(
    model: TorchModel, coupling: Coupling, folder: Path, *, exact: bool = True, as_onnx: bool = True
) -> None:
    """Prune at random, and hold what is left to zeros in the place of what went, and to what is told of it."""
    whole = answers(model)
    for found, wanted in zip(answers(without(model, coupling, [])), whole, strict=True):
        assert torch.equal(found, wanted)
    units = some_units(coupling, 0.4, seed=3)
    smaller = without(model, coupling, units)
    assert len(units) > 0.2 * len(coupling.units)
    for found, silent, wanted in zip(
        answers(smaller), answers(silenced(model, coupling, units)), whole, strict=True
    ):
        assert found.shape == wanted.shape
        if exact:
            torch.testing.assert_close(found, silent, rtol=1e-3, atol=1e-4)
    before, after = (totals(layers(one.module, one.inputs)) for one in (model, smaller))
    assert after[0] < 0.85 * before[0]
    assert after[1] < 0.85 * before[1]
    if as_onnx:
        assert onnx_flops(smaller, folder) == after[1]


SMALL = {
    "resnet": (
        zoo("resnet_cifar", "get_resnet_cifar", blocks=8, bottleneck=False, in_size=(32, 32)),
        (3, 32, 32),
    ),
    "vgg": (vgg, (3, 32, 32)),
}
LARGE = {
    "resnet18": zoo("resnet", "resnet18"),
    "mobilenetv2": zoo("mobilenetv2", "mobilenetv2_wd4"),
    "shufflenetv2": zoo("shufflenetv2", "shufflenetv2_wd2"),
    "efficientnet_b0": zoo("efficientnet", "efficientnet_b0"),
    "resnext": zoo("resnext", "resnext14_16x4d"),
    "densenet": zoo("densenet", "densenet121"),
    "mobilenetv3": zoo("mobilenetv3", "mobilenetv3_small_wd2"),
}


@pytest.mark.parametrize("name", list(SMALL))
def test_small_convolutional_networks(name: str, tmp_path: Path):
    torch.manual_seed(0)
    make, shape = SMALL[name]
    model = lifted(make(), *shape)

    check(model, couple(model), tmp_path)


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def test_bert(attention: str, tmp_path: Path):
    torch.manual_seed(0)
    model = lifted(Bert(attention), 12, dtype="int64")
    coupling = couple(model)
    layer = "bert.encoder.layer.1."

    assert units_of(coupling, f"{layer}attention.self.query") == 4
    assert units_of(coupling, f"{layer}intermediate.dense") == 48
    assert units_of(coupling, "bert.embeddings.word_embeddings") == 32
    assert torch.equal(
        coupling.layers["bert.embeddings.position_embeddings"], coupling.layers[f"{layer}output.dense"]
    )
    check(model, coupling, tmp_path, exact=False, as_onnx=attention == "sdpa")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LARGE))
def test_networks_of_the_zoo(name: str, tmp_path: Path):
    torch.manual_seed(0)
    model = lifted(LARGE[name](), 3, 224, 224)
    coupling = couple(model)

    assert set(coupling.fixed) <= {place for place in coupling.fixed if place.startswith("output")}
    check(model, coupling, tmp_path)


def test_a_shuffle_network_of_the_zoo(tmp_path: Path):
    torch.manual_seed(0)
    model = lifted(LARGE["shufflenetv2"](), 3, 224, 224)
    coupling = couple(model)

    assert len(coupling.units) > 1000
    check(model, coupling, tmp_path, as_onnx=False)
