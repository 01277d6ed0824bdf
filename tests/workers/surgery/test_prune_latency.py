"""A share of the latency on a real runtime: what the pass leaves is within the tolerance, also when it is measured anew."""

import pytest
import torch
from torch import nn

from benchmarks.surgery.timing import on_target
from benchmarks.training.common import room
from tests.accuracy.fashion import Residual
from workers.surgery.latency_search import TOLERANCE

SHAPE = [1, 28, 28]


def network() -> nn.Module:
    """Residual blocks of 48, 96 and 128 channels, whose kernels compute 8 or 16 at once."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        Residual(48, 48, 1), Residual(48, 96, 2), Residual(96, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_latency_is_met_on_a_real_runtime(share: float):
    with room() as place:
        model = place.program(network(), SHAPE)
        timing = on_target(place, model, SHAPE, "onnxruntime-cpu")
        pruned, facts = place.apply(
            "prune-channels", model, {"target": "latency", "to": share}, {}, timing=timing
        )
        anew = timing.share(pruned)

    assert facts["latency_met"]
    assert abs(facts["latency_left"] / share - 1) <= TOLERANCE
    assert anew.low <= share * (1 + TOLERANCE)
    assert anew.high >= share * (1 - TOLERANCE)
