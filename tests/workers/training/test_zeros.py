"""Which zeros training keeps, and that every optimizer leaves them where they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.workers.engines.networks import Cnn
from tests.workers.training.trainings import Setting, together
from workers.training.zeros import KeptZeros, zeros_of


class Net(nn.Module):
    """Weights of 100 and 40 elements, one that is zero throughout, a bias of zeros."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 4, bias=False)
        self.blank = nn.Linear(4, 4)
        nn.init.zeros_(self.blank.weight)
        nn.init.zeros_(self.blank.bias)
        with torch.no_grad():
            self.first.weight.flatten()[: round(100 * share)] = 0


@pytest.mark.parametrize(
    ("share", "keep", "found"),
    [
        (0.5, "auto", {"first.weight": 50}),
        (0.06, "auto", {}),  # 6 of 140 are 4%
        (0.07, "auto", {"first.weight": 7}),
        (0.06, True, {"first.weight": 6, "blank.weight": 16}),
        (0.5, False, {}),
    ],
)
def test_which_zeros_stay(share: float, keep: Any, found: dict[str, int]) -> None:
    assert zeros_of(Net(share), keep) == found


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda given: torch.optim.AdamW(given, weight_decay=0.1), id="adamw"),
        pytest.param(
            lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
            id="sgd",
        ),
    ],
)
def test_no_optimizer_moves_them(make: Any) -> None:
    torch.manual_seed(0)
    net = Net(0.5)
    zero = net.first.weight.detach() == 0
    kept = KeptZeros(net, zeros_of(net, "auto"))
    optimizer = make(net.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        net.second(net.first(torch.randn(8, 10))).square().sum().backward()
        kept.clear_gradients()
        optimizer.step()
    assert torch.equal(net.first.weight.detach() == 0, zero)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.slow
def test_several_processes_keep_them(strategy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = Cnn()
    with torch.no_grad():
        for one in pruned.parameters():
            if one.dim() > 1:
                one.masked_fill_(one.abs() < one.abs().median(), 0)
    setting = Setting.make(tmp_path, pruned)
    report, trained, _ = setting.train(tmp_path / "run", epochs=1, **together(2, strategy))
    before = {name: one.detach() == 0 for name, one in pruned.named_parameters() if one.dim() > 1}
    assert report.kept_zero == sum(int(one.sum()) for one in before.values()) > 0
    zeros = sorted(int((one == 0).sum()) for one in trained.values() if one.dim() > 1)
    assert zeros == sorted(int(one.sum()) for one in before.values())
