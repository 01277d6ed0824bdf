"""Lifted programs: the layers are back, they compute the same, and they train."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import UnsupportedOperator
from tests.workers.torch_programs import networks
from workers.torch.lift import lift
from workers.torch.program import (
    Program,
    TorchModel,
    example_inputs,
    export,
    load_program,
    runner,
    save_program,
)

IMAGES = [("x", "float32", ["batch", 3, 64, 64])]
IDS = [("input_ids", "int64", ["batch", "sequence"]), ("attention_mask", "int64", ["batch", "sequence"])]
OF_OUR_OWN = [
    pytest.param(networks.cnn, [("x", "float32", ["batch", 3, "h", "w"])], id="cnn"),
    pytest.param(networks.recurrent, [("ids", "int64", ["batch", 7])], id="recurrent"),
    pytest.param(networks.transformer, [("x", "float32", ["batch", "sequence", 16])], id="transformer"),
    pytest.param(networks.bert, IDS, id="bert"),
]


class Many(nn.Module):
    """A layer called twice, a weight of two layers, weights that are buffers, layers without weights, one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.twice.weight
        self.norm = nn.LayerNorm(6, elementwise_affine=False)
        self.frozen = nn.Conv1d(4, 4, 3, padding="same", dilation=2).requires_grad_(False)
        self.batch_norm = nn.BatchNorm1d(4, affine=False)
        self.register_buffer("matrix", torch.randn(5, 6))
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor, *, y: torch.Tensor, mode: Any = None) -> Any:
        x = self.norm(self.tied(self.twice(self.twice(x)))) + y
        x = self.batch_norm(self.frozen(x))
        return {"a": nn.functional.linear(x, self.matrix) * self.gain, "b": (x, None)}


def _counts(module: nn.Module) -> Counter[str]:
    return Counter(
        type(part).__name__
        for part in module.modules()
        if type(part).__module__.startswith("torch.nn.modules")
    )


def _loaded(model: TorchModel, folder: Path) -> Program:
    save_program(export(model), model.inputs, model.outputs, folder / "m.pt2")
    return load_program(folder / "m.pt2")


def _after(module: nn.Module, model: TorchModel) -> TorchModel:
    """The model with its output declared, as its module gives it."""
    with torch.inference_mode():
        given = module(*example_inputs(model.inputs))
    shape = ["batch" if axis == 0 else None for axis in range(given.dim())]
    return TorchModel(module, model.inputs, ({"name": "y", "dtype": "float32", "shape": shape},))


@pytest.mark.parametrize("name", ["resnet18_wd4", "mobilenetv2_wd4", "shufflenetv2_wd2", "efficientnet_b0"])
def test_networks_of_the_zoo_come_back(name: str) -> None:
    network = networks.zoo(name)
    lifted = lift(export(networks.model(network, IMAGES)))
    known = {"Conv2d", "BatchNorm2d", "Linear"}
    assert {kind: count for kind, count in _counts(lifted).items() if kind in known} == {
        kind: count for kind, count in _counts(network).items() if kind in known
    }
    assert set(dict(lifted.named_parameters())) == set(dict(network.named_parameters()))
    (images,) = example_inputs(networks.model(network, IMAGES).inputs, seed=3, free=3)
    with torch.no_grad():
        assert torch.equal(lifted(images), network(images))


@pytest.mark.parametrize(("make", "inputs"), OF_OUR_OWN)
def test_it_computes_the_same_trains_and_exports_anew(
    make: Callable[[], nn.Module], inputs: networks.Signature, tmp_path: Path
) -> None:
    network = make()
    model = _after(network, networks.model(network, inputs))
    program = _loaded(model, tmp_path)
    lifted = lift(program.program)
    feeds = example_inputs(model.inputs, seed=5, free=4)
    assert torch.equal(lifted(*feeds), network(*feeds))
    assert not any(part.training for part in lifted.modules())
    assert sum(p.numel() for p in lifted.parameters()) == sum(p.numel() for p in network.parameters())

    before = copy.deepcopy(lifted)
    _step(lifted, feeds)
    for name, parameter in lifted.named_parameters():
        assert not torch.equal(parameter, before.get_parameter(name)), name

    arrays = {entry["name"]: feed.numpy() for entry, feed in zip(model.inputs, feeds, strict=True)}
    anew = TorchModel(lifted, model.inputs, model.outputs)
    again = runner(Program(export(anew), anew.inputs, anew.outputs))(arrays)["y"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(again), lifted(*feeds))
        assert torch.equal(torch.from_numpy(runner(program)(arrays)["y"]), before(*feeds))


def test_layers_are_those_of_the_network() -> None:
    for make, inputs in (
        (networks.cnn, [("x", "float32", ["n", 3, 16, 16])]),
        (networks.recurrent, [("ids", "int64", ["n", 7])]),
    ):
        network = make()
        lifted = lift(export(networks.model(network, inputs)))
        for name, part in network.named_modules():
            if list(part.parameters(recurse=False)):
                assert repr(lifted.get_submodule(name)) == repr(part)


def test_train_switches_batch_norm_and_dropout() -> None:
    network = networks.cnn()
    model = networks.model(network, [("x", "float32", ["batch", 3, 16, 16])])
    lifted = lift(export(model))
    (images,) = example_inputs(model.inputs, free=8)
    for part in (network, lifted):
        part.train()
    torch.manual_seed(1)
    expected = network(images)
    torch.manual_seed(1)
    torch.testing.assert_close(lifted(images), expected)
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(lifted.get_buffer(name), buffer)
    lifted.eval()
    with torch.no_grad():
        torch.testing.assert_close(lifted(images), network.eval()(images))


def test_what_is_shared_stays_shared_and_every_weight_is_a_parameter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.lived_in(Many()).eval()
    x, y = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    program = torch.export.export(network, (x,), {"y": y, "mode": None})
    torch.export.save(program, tmp_path / "m.pt2")
    for one in (program, load_program(tmp_path / "m.pt2").program):
        lifted = lift(one)
        with torch.no_grad():
            given, expected = lifted(x, y), network(x, y=y)
        assert torch.equal(given["a"], expected["a"])
        assert torch.equal(given["b"][0], expected["b"][0])
        assert given["b"][1] is None
        assert _counts(lifted) == {"Linear": 3, "LayerNorm": 1, "Conv1d": 1, "BatchNorm1d": 1}
        assert lifted.get_submodule("twice").weight is lifted.get_submodule("tied").weight
        assert len(list(lifted.parameters())) == len(list(network.parameters())) + 1
        before = copy.deepcopy(lifted)
        loss = lifted(x, y)["a"].square().sum()
        loss.backward()
        torch.optim.SGD(lifted.parameters(), 0.1).step()
        for name, parameter in lifted.named_parameters():
            assert not torch.equal(parameter, before.get_parameter(name)), name
    with torch.no_grad():
        assert torch.equal(program.module()(x, y=y, mode=None)["a"], expected["a"])


def test_weights_of_transformers_stay_tied() -> None:
    lifted = lift(export(networks.model(networks.bert(), IDS)))
    embeddings = lifted.get_submodule("bert.bert.embeddings.word_embeddings")
    head = lifted.get_submodule("bert.cls.predictions.decoder")
    assert isinstance(embeddings, nn.Embedding)
    assert isinstance(head, nn.Linear)
    assert embeddings.weight is head.weight


def test_a_call_without_a_derivative_is_named() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with torch.no_grad():
        program = torch.export.export(layer, (torch.randn(2, 5, 16),), strict=True)
    with pytest.raises(UnsupportedOperator, match="has no derivative") as caught:
        lift(program)
    assert "_transformer_encoder_layer_fwd" in str(caught.value.node)


def _step(module: nn.Module, feeds: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(0)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    output = module(*feeds)
    nn.functional.mse_loss(output, torch.randn_like(output)).backward()
    optimizer.step()
    module.eval()
