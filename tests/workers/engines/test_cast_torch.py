"""The pass `cast-torch`: what it does to programs of several kinds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers.engines.networks import Network, answers
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.torch.program import TorchModel, export, load_program, save_program

NAME = "cast-torch"
FLOATS = {torch.float16, torch.bfloat16, torch.float32}


class Scaled(nn.Module):
    """Types that a network names itself, beside a recurrent layer: a mask in fp32, a position, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        held = mask.to(torch.float32)
        places = torch.arange(x.shape[1], dtype=torch.float32) / 10
        found, _ = self.lstm(x * held[:, :, None] + places[None, :, None])
        weights = torch.softmax(self.norm(found), dim=-1)
        return self.head(weights).float(), mask.sum(dim=1)


@pytest.fixture
def scaled(tmp_path: Path) -> ModelHandle:
    torch.manual_seed(0)
    root = tmp_path / "scaled"
    root.mkdir()
    inputs = (
        {"name": "x", "dtype": "float32", "shape": ["batch", "time", 6]},
        {"name": "mask", "dtype": "int64", "shape": ["batch", "time"]},
    )
    outputs = (
        {"name": "scores", "dtype": "float32", "shape": ["batch", "time", 3]},
        {"name": "length", "dtype": "int64", "shape": ["batch"]},
    )
    save_program(export(TorchModel(Scaled().eval(), inputs, outputs)), inputs, outputs, root / "model.pt2")
    return ModelHandle(root, "model.pt2", "torch-export", tree_digest(root))


@pytest.mark.parametrize(("dtype", "decibel"), [("fp16", 50), ("bf16", 30)])
def test_a_network_that_names_types_is_cast_whole(
    dtype: str, decibel: int, scaled: ModelHandle, apply: Callable, signal: Callable
):
    model, context = apply(NAME, scaled, None, dtype=dtype)
    for size in (2, 5):
        random = np.random.default_rng(size)
        feeds = {
            "x": random.normal(size=(size, size + 1, 6)).astype(np.float32),
            "mask": random.integers(0, 2, (size, size + 1)),
        }
        before, after = answers(scaled, feeds), answers(model, feeds)
        assert decibel < signal(before["scores"], after["scores"]) < 100
        assert after["scores"].dtype == np.float32
        np.testing.assert_array_equal(before["length"], after["length"])
    program = load_program(model.path).program
    inner = {torch.float16 if dtype == "fp16" else torch.bfloat16}
    assert {value.dtype for value in program.state_dict.values()} & FLOATS == inner
    assert context.facts == {"cast": context.facts["cast"], "clamped": 0}
    assert context.facts["cast"] == sum(value.numel() for value in program.state_dict.values())


def test_weights_beyond_half_precision_are_clamped_and_told(mlp: Network, apply: Callable, tmp_path: Path):
    program = load_program(mlp.program.path)
    weight = next(iter(program.program.state_dict.values()))
    with torch.no_grad():
        weight.view(-1)[:3] = torch.tensor([1e6, -1e6, 7.0])
    root = tmp_path / "large"
    root.mkdir()
    save_program(program.program, program.inputs, program.outputs, root / "model.pt2")
    large = ModelHandle(root, "model.pt2", "torch-export", tree_digest(root))

    model, context = apply(NAME, large, None)
    assert context.facts["clamped"] == 2
    assert context.warnings == [
        "2 weights lie beyond 65504, the largest number of half precision, and were clamped"
    ]
    cast = next(iter(load_program(model.path).program.state_dict.values()))
    assert cast.view(-1)[:3].tolist() == [65504.0, -65504.0, 7.0]
    _, wide = apply(NAME, large, None, dtype="bf16")
    assert wide.facts["clamped"] == 0
    assert wide.warnings == []
