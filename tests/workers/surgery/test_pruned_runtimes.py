"""Real networks through `prune-channels`: as they were where nothing is pruned, and pruned on every runtime of this machine with
the answers that the pruned program gives; they build for TensorRT for RTX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers.onnx_to_torch.exports import decibels, network
from tests.workers.surgery.engines import ELSEWHERE, HERE, built, run_on
from tests.workers.surgery.test_channels_zoo import LARGE, Bert, vgg, zoo
from tests.workers.surgery.trials import Trial, trial
from tests.workers.torch_programs.networks import lived_in
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.torch.model import example_inputs, to_array

IMAGES = (3, 224, 224)
SHARE = 0.7
Shape = tuple[int, ...]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Shape, Shape]] = {  # with the shapes of inputs and output
    "resnet": (LARGE["resnet18"], IMAGES, (10,)),
    "vgg": (vgg, (3, 32, 32), (7,)),
    "mobilenet": (zoo("mobilenet", "mobilenet_wd4"), IMAGES, (10,)),
    "mobilenetv2": (LARGE["mobilenetv2"], IMAGES, (10,)),
    "shufflenetv2": (LARGE["shufflenetv2"], IMAGES, (10,)),
    "efficientnet_b0": (LARGE["efficientnet_b0"], IMAGES, (10,)),
    "bert": (lambda: Bert("sdpa"), (12,), (7,)),
    "minilm": (lambda: network("minilm")[0], (12,), (12, 384)),
}


@dataclass(frozen=True)
class Subject:
    """A network, inputs of it, and what `prune-channels` leaves: all of it, and a part."""

    tried: Trial
    feeds: dict[str, np.ndarray]
    whole: ModelHandle
    smaller: ModelHandle
    told: PassContext


@pytest.fixture(scope="module", params=list(NETWORKS))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    make, taken, given = NETWORKS[request.param]
    torch.manual_seed(0)
    made = lived_in(make())
    names = ("tokens", "mask") if request.param == "minilm" else ("values",)
    dtype = "float32" if len(taken) == 3 else "int64"
    inputs = [{"name": name, "dtype": dtype, "shape": ["batch", *taken]} for name in names]
    outputs = [{"name": "found", "dtype": "float32", "shape": ["batch", *given]}]
    tried = trial(tmp_path_factory.mktemp(request.param), "prune-channels", made, inputs, outputs)
    values = zip(names, example_inputs(inputs), strict=True)
    whole, _ = tried.apply(ratio=0)
    smaller, told = tried.apply(target="flops", to=SHARE, round_to=1)  # odd numbers are the harder ones
    return Subject(tried, {name: to_array(value) for name, value in values}, whole, smaller, told)


@pytest.mark.slow
def test_nothing_pruned_gives_the_same_answers(subject: Subject):
    found, wanted = (subject.tried.run(one, **subject.feeds) for one in (subject.whole, subject.tried.model))

    assert np.array_equal(found["found"], wanted["found"])


@pytest.mark.slow
def test_operations_go_from_every_kind_of_network(subject: Subject):
    flops = subject.told.facts["flops"]

    assert 0.9 * SHARE < flops["after"] / flops["before"] <= SHARE
    assert not subject.told.warnings


@pytest.mark.slow
@pytest.mark.parametrize("runtime", HERE)
def test_runs_with_the_answers_that_it_had(subject: Subject, runtime: str, tmp_path: Path):
    wanted = subject.tried.run(subject.smaller, **subject.feeds)["found"]
    found = run_on(subject.smaller, runtime, subject.feeds, tmp_path)["found"]

    assert np.abs(wanted).max() > 0
    assert decibels(wanted, found) > 60


@pytest.mark.slow
def test_builds_for_tensorrt_for_rtx(subject: Subject, tmp_path: Path):
    engine = built(subject.smaller, ELSEWHERE, tmp_path)

    assert (engine.root / engine.entry).stat().st_size > 10_000
