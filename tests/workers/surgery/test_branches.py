"""Residual branches: which additions are some, and networks without them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from tests.workers.surgery import residual
from tests.workers.surgery.cutting import answers, lifted
from tests.workers.surgery.residual import LENGTH, WIDTH
from tests.workers.surgery.test_channels_random import BLOCKS, SIZE, Drawn
from workers.surgery.branches import Branches
from workers.surgery.counting import layers, totals
from workers.torch.model import TorchModel, example_inputs, leaves

ROWS, IMAGES = (LENGTH, WIDTH), (3, 6, 6)
FOUND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "post-norm": (lambda: residual.Unmasked("post", 1), ROWS, ["layer.0.attention", "layer.0.mlp"]),
    "pre-norm": (lambda: residual.Unmasked("pre", 1), ROWS, ["layer.0.attention", "layer.0.mlp"]),
    "parallel": (lambda: residual.Unmasked("parallel", 1), ROWS, ["layer.0.mlp", "layer.0.attention", "layer.0"]),
    "resnet": (residual.resnet, IMAGES, ["1.body", "3.body"]),
    "mobile": (residual.mobile, IMAGES, ["1", "2"]),
    "nested": (residual.Outer, (4, 6, 6), ["inner", "out"]),
    "in-place": (residual.InPlace, (4, 6, 6), ["two"]),
}  # fmt: skip


class Other(nn.Module):
    """Additions that are no branches, or none that can go: of another shape, of constants, of two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.gate = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.table = nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x) + self.two(x)
        x = x + self.table
        x = x + 0.1 * x**3
        return x + self.gate(x.mean((2, 3), keepdim=True))


class Counting(nn.Module):
    """Its branch keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.one(x)
        self.seen.add_(inner.mean(0))
        return self.two(x + inner)


class Repeated(nn.Module):
    """The same layers three times (Lan et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.norm, self.head = residual.feed_forward(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.norm(x + self.mlp(x))
        return self.head(x)


class Skipping(fx.Interpreter):
    """The whole graph, in which additions give one operand: what a network without branches must give."""

    def __init__(self, network: fx.GraphModule, dropped: Mapping[str, int]):
        super().__init__(network, garbage_collect_values=False)
        self._dropped = dropped

    def run_node(self, node: fx.Node) -> Any:
        """An operand, copied, in place of the sum."""
        if node.name in self._dropped:
            return self.env[node.args[self._dropped[node.name]]].clone()  # type: ignore[index]
        return super().run_node(node)


def found_in(network: nn.Module, *shape: int) -> tuple[TorchModel, Branches]:
    model = lifted(network, *shape)
    assert isinstance(model.module, fx.GraphModule)
    return model, Branches(model.module, {one.name: one for one in layers(model.module, model.inputs)})


def check(model: TorchModel, branches: Branches, dropped: Mapping[str, int]) -> TorchModel:
    """The network without branches, which gives what it must and holds nothing that it does not read."""
    assert isinstance(model.module, fx.GraphModule)
    smaller = TorchModel(branches.without(dropped), model.inputs, model.outputs)
    with torch.no_grad():
        wanted = leaves(Skipping(model.module, dropped).run(*example_inputs(model.inputs)))
    for found, value in zip(answers(smaller), wanted, strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=0)
    assert isinstance(smaller.module, fx.GraphModule)
    counts = totals(layers(smaller.module, smaller.inputs))
    assert counts[0] == sum(one.numel() for one in smaller.module.parameters())
    return smaller


@pytest.mark.parametrize("name", FOUND)
def test_branches_are_found_and_can_go(name: str):
    make, shape, names = FOUND[name]
    torch.manual_seed(0)
    model, branches = found_in(make(), *shape)
    before = totals(layers(model.module, model.inputs))

    assert [one.name for one in branches.found] == names
    assert branches.left_out == {}
    for one in branches.found:
        smaller = check(model, branches, {one.addition: one.kept})
        after = totals(layers(smaller.module, smaller.inputs))
        assert branches.saved({}, one) == (before[0] - after[0], before[1] - after[1])
        assert not set(dict(smaller.module.named_modules())) & set(one.layers)
    gone: dict[str, int] = {}
    while left := branches.left(gone):
        gone[left[0].addition] = left[0].kept
    check(model, branches, gone)


def test_a_branch_within_a_branch_goes_with_it():
    _, branches = found_in(residual.Outer(), 4, 6, 6)
    inner, outer = branches.found

    assert set(inner.layers) < set(outer.layers)
    assert [one.name for one in branches.left({inner.addition: inner.kept})] == ["out"]
    assert branches.left({outer.addition: outer.kept}) == []
    saved = branches.saved({inner.addition: inner.kept}, outer)
    assert saved == tuple(
        whole - part for whole, part in zip(branches.saved({}, outer), branches.saved({}, inner), strict=True)
    )


def test_other_additions_are_no_branches():
    _, branches = found_in(Other(), 4, 6, 6)

    assert branches.found == []
    assert branches.left_out == {"gate": "is added to values of another shape"}


def test_a_branch_that_writes_into_a_buffer_stays():
    _, branches = found_in(Counting(), 4)

    assert branches.found == []
    assert branches.left_out == {"one": "writes into a buffer or an input"}


def test_layers_that_other_branches_call_stay():
    model, branches = found_in(Repeated(), LENGTH, WIDTH)

    assert len({one.name for one in branches.found}) == 3
    last = branches.found[-1]
    smaller = check(model, branches, {last.addition: last.kept})
    assert "mlp.0" in dict(smaller.module.named_modules())
    none = check(model, branches, {one.addition: one.kept for one in branches.found})
    assert "mlp.0" not in dict(none.module.named_modules())


drawn = st.tuples(
    st.lists(st.sampled_from([*BLOCKS, "residual", "attention"]), min_size=2, max_size=5),
    st.integers(0, 10_000),
    st.integers(0, 255),
)
quietly = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def check_drawn(kinds: list[str], seed: int, chosen: int) -> None:
    model, branches = found_in(Drawn(kinds, seed), 3, SIZE, SIZE)
    wanted = kinds.count("residual") + 2 * kinds.count("attention")

    assert len(branches.found) == wanted
    check(
        model,
        branches,
        {one.addition: one.kept for number, one in enumerate(branches.found) if chosen >> number & 1},
    )


@settings(max_examples=6, **quietly)
@given(drawn)
def test_random_networks_give_what_they_must_without_branches(network: tuple[list[str], int, int]):
    check_drawn(*network)


@pytest.mark.slow
@settings(max_examples=100, **quietly)
@given(drawn)
def test_many_random_networks_give_what_they_must_without_branches(network: tuple[list[str], int, int]):
    check_drawn(*network)
