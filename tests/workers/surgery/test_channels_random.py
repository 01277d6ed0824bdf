"""Random small networks, pruned at random: they stay valid, keep their signature, and cost what the report says."""

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.workers.surgery.cutting import answers, lifted, onnx_flops, silenced, some_units, without
from workers.surgery.channels import couple
from workers.surgery.counting import layers, totals
from workers.torch.program import export

SIZE = 6  # of images
BLOCKS = (
    "plain",
    "residual",
    "concatenated",
    "grouped",
    "depthwise",
    "shuffled",
    "attention",
    "gated",
    "normed",
    "transposed",
)


class Block(nn.Module):
    """One structure of images [n, before, s, s] to [n, after, s, s]."""

    def __init__(self, kind: str, before: int, draw: random.Random):
        super().__init__()
        self.kind = kind
        after = draw.choice([4, 6, 8, 12])
        if kind == "residual":
            after = before
        self.after = after
        if kind in ("plain", "residual", "gated"):
            self.one, self.two = nn.Conv2d(before, 6, 3, padding=1), nn.Conv2d(6, after, 1)
        if kind == "gated":
            self.gate = nn.Linear(after, after)
        if kind == "concatenated":
            self.one, self.two = nn.Conv2d(before, after, 1), nn.Conv2d(before, 5, 3, padding=1)
            self.after = after + 5 + before
        if kind == "grouped":
            self.groups = draw.choice([2, after // 2, after])
            self.one = nn.Conv2d(before, after, 1)
            self.two = nn.Conv2d(after, after, 3, padding=1, groups=self.groups)
        if kind == "depthwise":
            self.after = before * draw.choice([1, 2])
            self.one, self.norm = (
                nn.Conv2d(before, self.after, 3, padding=1, groups=before),
                nn.BatchNorm2d(self.after),
            )
        if kind == "shuffled":
            self.one = nn.Conv2d(before, after, 1)
            self.two = nn.Conv2d(after // 2, after // 2, 3, padding=1, groups=draw.choice([1, after // 2]))
        if kind == "attention":
            self.heads, size = draw.choice([1, 2, 3]), draw.choice([2, 4])
            self.mixed = nn.Linear(before, 3 * self.heads * size)
            self.joined, self.norm = nn.Linear(self.heads * size, before), nn.LayerNorm(before)
            self.wide, self.narrow, self.after = nn.Linear(before, 7), nn.Linear(7, before), before
            self.packed = draw.random() < 0.5
        if kind == "normed":
            self.one, self.norm = nn.Conv2d(before, after, 1, bias=False), nn.GroupNorm(2, after)
        if kind == "transposed":
            self.one = nn.ConvTranspose2d(before, after, 3, padding=1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"_{self.kind}")(x)

    def _plain(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())

    def _residual(self, x: Tensor) -> Tensor:
        return x + self.two(functional.gelu(self.one(x)))

    def _concatenated(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), x, self.two(x)], 1)

    def _grouped(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))

    def _depthwise(self, x: Tensor) -> Tensor:
        return functional.hardswish(self.norm(self.one(x)))

    def _shuffled(self, x: Tensor) -> Tensor:
        kept, other = self.one(x).split(self.after // 2, 1)
        x = torch.stack([kept, self.two(other)], 2)
        return x.flatten(1, 2)

    def _attention(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.flatten(2).transpose(1, 2)
        mixed = self.mixed(self.norm(rows))
        size = mixed.shape[-1] // 3 // self.heads
        if self.packed:
            query, key, value = mixed.reshape(batch, -1, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            query, key, value = (
                part.reshape(batch, -1, self.heads, size).transpose(1, 2) for part in mixed.chunk(3, -1)
            )
        found = (query @ key.transpose(-1, -2) / size**0.5).softmax(-1) @ value
        rows = rows + self.joined(found.transpose(1, 2).reshape(batch, -1, self.heads * size))
        rows = rows + self.narrow(functional.silu(self.wide(rows)))
        return rows.transpose(1, 2).reshape(batch, channels, height, width)

    def _gated(self, x: Tensor) -> Tensor:
        x = self._plain(x)
        return x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]

    def _normed(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.norm(self.one(x)))

    def _transposed(self, x: Tensor) -> Tensor:
        return self.one(x)


class Drawn(nn.Module):
    """Blocks one after the other; sometimes two outputs, sometimes a flattened image before the head."""

    def __init__(self, kinds: list[str], seed: int):
        super().__init__()
        torch.manual_seed(seed)
        draw = random.Random(seed)
        self.first = nn.Conv2d(3, draw.choice([4, 8]), 3, padding=1)
        width = self.first.out_channels
        blocks = []
        for kind in kinds:
            blocks.append(Block(kind, width, draw))
            width = blocks[-1].after
        self.blocks = nn.Sequential(*blocks)
        self.flat, self.second = draw.random() < 0.4, draw.random() < 0.3
        self.head = nn.Linear(width * SIZE * SIZE if self.flat else width, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.blocks(functional.relu(self.first(x)))
        found = self.head(x.flatten(1) if self.flat else x.mean((2, 3)))
        return (found, functional.max_pool2d(x, 2)) if self.second else found


drawn = st.tuples(
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.integers(0, 10_000), st.floats(0.1, 0.8)
)
quietly = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def check(kinds: list[str], seed: int, share: float, *, as_onnx: bool) -> None:
    model = lifted(Drawn(kinds, seed), 3, SIZE, SIZE)
    coupling = couple(model)
    units = some_units(coupling, share, seed)
    smaller = without(model, coupling, units)
    wanted = answers(model)

    for found, silent, whole in zip(
        answers(smaller), answers(silenced(model, coupling, units)), wanted, strict=True
    ):
        assert found.shape == whole.shape
        if not {"attention", "normed"} & set(kinds):  # whose norms see fewer channels
            torch.testing.assert_close(found, silent, rtol=1e-3, atol=1e-4)
    program = export(smaller)
    again = program.module()(*(torch.randn(3, 3, SIZE, SIZE),))
    leaves = [again] if isinstance(again, Tensor) else list(again)
    assert [leaf.shape for leaf in leaves] == [(3, *one.shape[1:]) for one in wanted]
    before, after = (totals(layers(one.module, one.inputs)) for one in (model, smaller))
    assert after[0] == sum(one.numel() for one in smaller.module.parameters())
    assert (after[0] < before[0]) == bool(units)
    if as_onnx:
        with tempfile.TemporaryDirectory() as folder:
            assert onnx_flops(smaller, Path(folder)) == after[1]


@settings(max_examples=6, **quietly)
@given(drawn)
def test_pruned_networks_stay_valid(network: tuple[list[str], int, float]):
    check(*network, as_onnx=False)


@settings(max_examples=2, **quietly)
@given(drawn)
def test_the_operations_that_are_told_are_those_of_the_exported_onnx(network: tuple[list[str], int, float]):
    check(*network, as_onnx=True)


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_structure_can_be_pruned(kind: str):
    model = lifted(Drawn([kind], 1), 3, SIZE, SIZE)
    coupling = couple(model)
    block = [name for name in coupling.layers if name.startswith("blocks")]

    assert any(set(coupling.layers[name].tolist()) - {0} for name in block)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=150, **quietly)
@given(drawn)
def test_many_pruned_networks_stay_valid(network: tuple[list[str], int, float]):
    check(*network, as_onnx=network[1] % 4 == 0)
