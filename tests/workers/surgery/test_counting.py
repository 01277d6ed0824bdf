"""Parameters and FLOPs per layer: against numbers by hand, the exported ONNX, and the network's own parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from app.errors import InvalidModel
from tests.workers.torch_programs import networks
from workers.formats.flops import count_flops
from workers.surgery.counting import LayerCount, layers, totals
from workers.torch.lift import lift
from workers.torch.program import TorchModel, export
from workers.torch.to_onnx import program_to_onnx

IMAGES = [("x", "float32", ["batch", 3, 64, 64])]
IDS = [("input_ids", "int64", ["batch", "sequence"]), ("attention_mask", "int64", ["batch", "sequence"])]


class Plain(nn.Module):
    """Of each kind that is counted one, a layer called twice, and a weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.twice = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16, bias=False)
        self.tied.weight = self.twice.weight
        self.gain = nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.depthwise(self.norm(self.conv(x)).relu())).flatten(2)
        x = self.tied(self.twice(self.twice(x[:, :, :16]))) * self.gain
        return x @ x.transpose(1, 2)


class Choice(nn.Module):
    """One of two branches, by the inputs' values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, self.first, self.second, (x,))


class Headed(nn.Module):
    """Attention as one operator and written as einsum: (n, 12, 16) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.mixed(x).unflatten(-1, (3, 4, 4)).unbind(2)
        query = nn.functional.scaled_dot_product_attention(
            *(one.transpose(1, 2) for one in (query, key, value))
        )
        query = query.transpose(1, 2)
        scores = torch.einsum("bihd,bjhd->bhij", query, key).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", scores, value).flatten(2)


def lifted(model: TorchModel) -> tuple[fx.GraphModule, Any]:
    program = export(model)
    network = lift(program)
    assert isinstance(network, fx.GraphModule)
    return network, program


def test_each_layer_is_counted_by_its_shapes() -> None:
    model = networks.model(Plain(), [("x", "float32", ["batch", 3, 8, 8])])
    network, _ = lifted(model)
    assert layers(network, model.inputs) == [
        LayerCount("gain", "weight", 16, 0, (16,)),
        LayerCount("conv", "Conv2d", 8 * 27 + 8, 2 * 8 * 16 * 27, (8, 4, 4)),
        LayerCount("norm", "BatchNorm2d", 16, 0, (8, 4, 4)),
        LayerCount("depthwise", "Conv2d", 72, 2 * 8 * 16 * 9, (8, 4, 4)),
        LayerCount("up", "ConvTranspose2d", 8 * 4 * 4 + 4, 2 * 128 * 16, (4, 8, 8)),
        LayerCount("twice", "Linear", 256 + 16, 2 * (2 * 4 * 16 * 16), (4, 16)),
        LayerCount("tied", "Linear", 0, 2 * 4 * 16 * 16, (4, 16)),
        LayerCount("matmul", "matmul", 0, 2 * 4 * 4 * 16, (4, 4)),
    ]


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        pytest.param(networks.cnn, [("x", "float32", ["batch", 3, 32, 32])], id="cnn"),
        pytest.param(networks.recurrent, [("ids", "int64", ["batch", 7])], id="recurrent"),
        pytest.param(
            networks.transformer,
            [("x", "float32", ["batch", 12, 16])],
            id="transformer",
            marks=pytest.mark.slow,
        ),
        pytest.param(Headed, [("x", "float32", ["batch", 12, 16])], id="attention"),
        pytest.param(networks.bert, IDS, id="bert", marks=pytest.mark.slow),
        pytest.param(
            lambda: networks.zoo("mobilenetv2_wd4"), IMAGES, id="mobilenetv2", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: networks.zoo("shufflenetv2_wd2"), IMAGES, id="shufflenetv2", marks=pytest.mark.slow
        ),
    ],
)
def test_the_sum_is_that_of_the_exported_onnx(make: Any, inputs: Any, tmp_path: Path) -> None:
    module = make()
    outputs = [("y", "float32", [])]
    model = networks.model(module, inputs, outputs)
    network, program = lifted(model)
    counted = layers(network, model.inputs)
    shape = program.graph_module.graph.output_node().args[0][0].meta["val"].shape
    declared = {
        "name": "y",
        "dtype": "float32",
        "shape": [dim if isinstance(dim, int) else None for dim in shape],
    }
    exported = program_to_onnx(program, model.inputs, [declared], tmp_path)
    flops, unknown = count_flops(exported.load_onnx())
    assert unknown == []
    assert flops > 0
    assert totals(counted) == (sum(weight.numel() for weight in module.parameters()), flops)
    assert len({one.name for one in counted}) == len(counted)


def test_branches_count_once_each() -> None:
    model = networks.model(Choice(), [("x", "float32", ["batch", 6])])
    network, _ = lifted(model)
    counted = layers(network, model.inputs)
    assert totals(counted) == (2 * (24 + 4), 2 * (2 * 24))
    assert [one.kind for one in counted if one.flops] == ["linear", "linear"]


def test_shapes_that_hang_on_values_are_computed() -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x[x[:, 0] == x[:, 0]])

    model = networks.model(Picked(), [("x", "float32", ["batch", 6])])
    network, _ = lifted(model)
    assert layers(network, model.inputs) == [LayerCount("head", "Linear", 28, 2 * 24, (4,))]


def test_a_length_that_the_network_needs_is_found() -> None:
    model = networks.model(nn.Sequential(nn.Conv1d(2, 3, 5)), [("x", "float32", ["batch", 2, "length"])])
    network, _ = lifted(model)
    (only,) = layers(network, model.inputs)
    assert only.flops == 2 * 3 * only.output[1] * 10
    assert only.output[1] > 1


def test_a_network_that_runs_at_no_size_is_told() -> None:
    model = networks.model(nn.Linear(6, 4), [("x", "float32", ["batch", 6])])
    network, _ = lifted(model)
    with pytest.raises(InvalidModel, match="does not run on inputs that fit"):
        layers(network, [{"name": "x", "dtype": "float32", "shape": ["batch", 7]}])
