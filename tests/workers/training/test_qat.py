"""The pass `qat`: what is trained is what is written, it fuses as `quantize-static`'s, and it wins back what that loses."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.catalog.pass_params.qat import QatParams
from app.errors import InvalidDataset
from tests.workers.engines.networks import ArraySamples
from tests.workers.training.arrays import digits
from tests.workers.training.eight_bits import NETWORKS, Mobile
from tests.workers.training.qat_runs import (
    FORMS,
    Run,
    answers,
    engine,
    onnx_of,
    operators,
    program_of,
    run,
    static,
    trained,
)
from tests.workers.training.trainings import FolderCheckpoint
from workers.model_handle import ModelHandle

LEARNED = 900  # digits that are trained on; the other half tells
PAIRS = [("mobile", form) for form in FORMS] + [
    (kind, form) for kind in NETWORKS if kind != "mobile" for form in ("uint8", "tensorrt")
]
SOON = [("mobile", "uint8"), ("residual", "tensorrt")]


def parametrized(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Over networks and forms; of them all but the quickest that differ most are slow."""
    return pytest.mark.parametrize(
        ("kind", "form"),
        [
            pytest.param(*pair, marks=[] if pair in SOON else [pytest.mark.slow], id="-".join(pair))
            for pair in pairs
        ],
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """`runs(kind, form)`, each made once."""
    return cache(lambda kind, form: run(kind, form, tmp_path_factory.mktemp(f"{kind}-{form}")))


@parametrized(PAIRS)
def test_what_is_trained_is_what_is_written(kind: str, form: str, runs: Callable[[str, str], Run]):
    """But for ties that fall the other way, a level at a time: in no more than a few outputs, and those by few levels."""
    found = runs(kind, form)
    near(answers(found.static, {"images": found.images}), found.before_filed)
    near(found.before_filed, found.before)
    assert np.abs(found.after - found.before).mean() > 0.05 * np.ptp(found.before)  # it has learned
    near(found.after_filed, found.after)


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    level = np.ptp(wanted) / 64
    apart = np.abs(found - wanted)
    assert np.mean(apart > level) < 0.02
    assert apart.max() < 4 * level


@parametrized([pair for pair in PAIRS if pair[1] == "uint8"])
def test_it_fuses_as_quantize_static_does(
    kind: str, form: str, runs: Callable[[str, str], Run], tmp_path: Path
):
    found = runs(kind, form)
    assert operators(found.ended) == operators(found.static)
    for runtime, told in (("onnxruntime-cpu", "operators"), ("openvino-cpu", "compute")):
        facts = [
            engine(runtime, one, tmp_path / f"{runtime}{number}", threads=1).facts
            for number, one in enumerate((found.static, found.ended))
        ]
        assert facts[0][told] == facts[1][told]
        assert facts[1]["compute"].get("int8"), facts[1]


def test_tensorrt_fuses_it_as_what_quantize_static_made(runs: Callable[[str, str], Run], tmp_path: Path):
    found = runs("residual", "tensorrt")
    facts = [
        engine("tensorrt-rtx", one, tmp_path / name, compute_capabilities=(89,)).facts
        for name, one in (("a", found.ended), ("b", found.static))
    ]
    assert facts[0]["compute"] == facts[1]["compute"]
    assert facts[0]["compute"]["int8"] >= 4


@pytest.mark.slow
def test_tensorrt_fuses_it_with_a_half_precision_rest(tmp_path: Path):
    images, labels = digits(120)
    torch.manual_seed(0)
    model = program_of(NETWORKS["residual"](), tmp_path / "program")
    form = {"form": "tensorrt", "rest": "fp16"}
    ours, _ = trained(model, tmp_path / "qat", ArraySamples({"images": images}, labels), **form)
    theirs = static(
        onnx_of(model, tmp_path / "onnx"), ArraySamples({"images": images}), tmp_path / "static", **form
    )
    facts = [
        engine("tensorrt-rtx", one, tmp_path / name, compute_capabilities=(89,)).facts
        for name, one in (("a", ours), ("b", theirs))
    ]
    assert facts[0]["compute"] == facts[1]["compute"]
    assert facts[0]["compute"]["int8"] >= 4


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """A narrow depthwise network that knows digits, its channels of very different size.

    So are those of networks that trained long (Nagel et al., 2019, figure 2); here they begin so.
    """
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network, random = Mobile(relu=True), torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data = torch.exp(torch.randn(part.weight.shape, generator=random))
    images, labels = (torch.from_numpy(one) for one in digits(LEARNED))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    for _ in range(15):
        for rows in torch.randperm(LEARNED).split(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return program_of(network, tmp_path_factory.mktemp("uneven") / "program")


@pytest.mark.parametrize(
    "labelled",
    [pytest.param(True, id="labels"), pytest.param(False, id="no-labels", marks=pytest.mark.slow)],
)
def test_it_wins_back_what_quantize_static_loses(labelled: bool, uneven: ModelHandle, tmp_path: Path):
    images, labels = digits(LEARNED)
    plain = onnx_of(uneven, tmp_path / "onnx")
    quantized = static(plain, ArraySamples({"images": images}), tmp_path / "static")
    data = ArraySamples({"images": images}, labels if labelled else None)
    ours, context = trained(uneven, tmp_path / "qat", data, epochs=3 if labelled else 5, learning_rate=5e-3)

    before, lost = points(plain), points(quantized)
    assert before > 85
    assert lost < before - 0.5
    assert points(ours) >= lost
    assert points(ours) > before - 3
    history = context.facts["training"]["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert set(history[0]["parts"]) == ({"hard", "soft"} if labelled else set())
    assert context.facts["quantized"] == {"Conv": 5, "Gemm": 1}
    assert context.facts["left_out"] == []


def points(model: ModelHandle) -> float:
    images, labels = digits(start=LEARNED)
    return float(100 * np.mean(answers(model, {"images": images}).argmax(1) == labels))


def test_statistics_and_ranges_stay_once_they_are_frozen(runs: Callable[[str, str], Run]):
    found = runs("mobile", "uint8")
    network = found.network(QatParams(ranges="moving"))
    network.train()
    x = torch.from_numpy(found.images)
    network(x)
    network.freeze()
    buffers = {name: one.clone() for name, one in network.named_buffers()}
    network.train()  # as at the beginning of each epoch
    network(x * 3)
    assert all(torch.equal(one, buffers[name]) for name, one in network.named_buffers())
    assert {name.rsplit(".", 1)[-1] for name in buffers} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "ends",
    }


def test_a_training_that_was_broken_off_ends_with_the_same_model(tmp_path: Path):
    """Broken off in the fifth of eight steps, before ranges and statistics are frozen in the sixth."""
    torch.manual_seed(0)
    model = program_of(NETWORKS["layers"](), tmp_path / "program")
    data = ArraySamples({"images": digits(120)[0]}, digits(120)[1])

    def keep(folder: Path) -> None:
        if kept.count == 5:
            shutil.copytree(kept.root, tmp_path / "copied")

    kept = FolderCheckpoint.make(tmp_path / "kept", keep)
    params = {"epochs": 4, "ranges": "moving", "freeze_at": 0.6}
    whole, _ = trained(model, tmp_path / "whole", data, kept, **params)
    left = FolderCheckpoint.make(tmp_path / "copied")
    resumed, context = trained(model, tmp_path / "resumed", data, left, **params)

    (step,) = context.facts["training"]["resumed_from"]
    assert 0 < step <= 5
    assert resumed.digest == whole.digest


def test_labels_of_one_class_are_refused_where_they_count_and_change_nothing_where_not(tmp_path: Path):
    torch.manual_seed(0)
    model = program_of(NETWORKS["layers"](), tmp_path / "program")
    images = {"images": digits(120)[0]}
    one_class = ArraySamples(images, np.full(120, 4))
    alone, _ = trained(model, tmp_path / "alone", ArraySamples(images))
    made, _ = trained(model, tmp_path / "made", one_class, soft=1.0)
    with pytest.raises(InvalidDataset, match="label 4") as refusal:
        trained(model, tmp_path / "refused", one_class, soft=0.5)

    assert made.digest == alone.digest
    assert "soft=1 " in (refusal.value.hint or "")
