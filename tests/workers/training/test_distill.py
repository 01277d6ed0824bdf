"""The pass `distill` on scikit-learn's digits: what students learn, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.errors import BurnishError, InvalidDataset
from tests.workers.training.distilling import Lesson, handle, opened, program, scored
from tests.workers.training.networks import (
    Mlp,
    Reader,
    Small,
    accuracy,
    digits,
    fit,
    read_digits,
    trained,
    untrained,
)
from workers.torch.program import TorchModel, export, load_program, save_program
from workers.training.soft_losses import SoftLoss
from workers.training.students import fitted

FAST = {"learning_rate": 1e-2, "batch_size": 64}


@pytest.fixture
def lesson(tmp_path: Path) -> Lesson:
    """All digits without labels, and a teacher that knows them."""
    data = digits().train
    teacher = program(trained("mlp"), data, tmp_path / "teacher")
    return Lesson(tmp_path, teacher, {"train": opened(data, tmp_path / "data", labels=False)})


def test_without_labels_the_student_comes_near_its_teacher(lesson: Lesson, tmp_path: Path):
    student = program(untrained(lambda: Mlp(hidden=64), 1), digits().train, tmp_path / "student")
    made, ctx = lesson.give(student, epochs=10, **FAST)

    assert scored(student, digits().held) < 0.4
    assert scored(made, digits().held) >= accuracy(trained("mlp"), digits().held) - 0.02
    assert load_program(made.path).outputs == load_program(student.path).outputs
    last = ctx.facts["training"]["history"][-1]
    assert last["parts"].keys() == {"soft"}
    assert last["loss"] == pytest.approx(last["parts"]["soft"])


@pytest.mark.slow
def test_a_teacher_brings_more_than_labels(lesson: Lesson, tmp_path: Path):
    """A hundred labelled digits, moved and blended: of a blend the teacher says more than a blend of labels (Beyer et al., 2022,
    https://arxiv.org/abs/2106.05237). Each seed, alike but for `hard_weight`."""
    few, held = digits().train.first(100), digits().held
    teacher = fit(untrained(lambda: Small(16)), digits().train, epochs=16)
    lesson.teacher = program(teacher, few, tmp_path / "knowing")
    lesson.samples = {"train": opened(few, tmp_path / "few")}
    moved = [{"do": "random-crop", "padding": 1}, {"do": "mixup", "alpha": 1.0}]
    params = {"epochs": 80, "batch_size": 50, "learning_rate": 1e-2, "temperature": 4.0, "augment": moved}
    gains = []
    for seed in range(3):
        student = program(untrained(lambda: Small(8), seed + 1), few, tmp_path / f"student{seed}")
        taught, alone = (
            scored(lesson.give(student, seed=seed, hard_weight=weight, **params)[0], held)
            for weight in (0.0, 1.0)
        )
        gains.append(taught - alone)
    assert min(gains) > 0, gains


def test_labels_and_features_are_parts_of_the_loss(lesson: Lesson, tmp_path: Path):
    lesson.samples = {"train": opened(digits().train, tmp_path / "labelled")}
    student = program(untrained(lambda: Mlp(hidden=16), 1), digits().train, tmp_path / "student")
    pairs = [{"student": "hidden", "teacher": "hidden"}]
    _, ctx = lesson.give(student, epochs=3, hard_weight=0.3, feature_weight=0.5, features=pairs, **FAST)

    first, *_, last = ctx.facts["training"]["history"]
    for epoch in (first, last):
        parts = epoch["parts"]
        whole = 0.7 * parts["soft"] + 0.3 * parts["hard"] + 0.5 * parts["features"]
        assert epoch["loss"] == pytest.approx(whole, rel=1e-4)
    assert all(last["parts"][name] < first["parts"][name] for name in ("soft", "hard", "features"))


def test_a_zoo_student_takes_the_place_of_the_network_and_needs_no_labels(lesson: Lesson):
    made, ctx = lesson.give(lesson.teacher, student="fdmobilenet_wd4", epochs=8, **FAST)

    before, after = load_program(lesson.teacher.path), load_program(made.path)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert len(after.program.state_dict) > 10 * len(before.program.state_dict)
    assert ctx.facts["training"]["history"][-1]["parts"].keys() == {"soft"}
    assert scored(made, digits().held) >= scored(lesson.teacher, digits().held) - 0.02


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("name", ["mobilenetv2_wd4", "efficientnet_b0", "shufflenetv2_wd2"])
def test_four_points_are_left_of_small_images(name: str, size: int):
    network = fitted(name, (1, size, size), 7)
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[2:])))
    with torch.no_grad():
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 7)
    assert [one for one in seen if one != (1, 1)][-1] == (4, 4)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-such-network": ({"student": "mobilenetv2_w9"}, "student", "mobilenetv2_w1"),
    "large-images-only": ({"student": "vgg11"}, "student", "another network"),
    "labels-alone": ({"hard_weight": 1.0}, "inputs.train", "labels"),
    "no-such-layer": (
        {"feature_weight": 1.0, "features": [{"student": "hiden", "teacher": "hidden"}]},
        "features[0].student",
        "hidden",
    ),
}


@pytest.mark.parametrize(("params", "param", "hint"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_cannot_be(params: dict, param: str, hint: str, lesson: Lesson):
    with pytest.raises(BurnishError) as refusal:
        lesson.give(lesson.teacher, epochs=1, **params)
    assert refusal.value.param == param
    assert hint in (refusal.value.hint or "")


def test_labels_of_one_class_are_refused_where_they_count_and_change_nothing_where_not(
    lesson: Lesson, tmp_path: Path
):
    few = digits().train.first(64)
    one_class = replace(few, labels=np.full_like(few.labels, 4))
    unlabelled, labelled = (
        {"train": opened(data, tmp_path / name, labels=name == "one")}
        for name, data in (("none", few), ("one", one_class))
    )
    student = program(untrained(lambda: Mlp(hidden=16), 1), few, tmp_path / "student")
    lesson.samples = unlabelled
    alone, _ = lesson.give(student, epochs=1, **FAST)
    lesson.samples = labelled
    made, _ = lesson.give(student, epochs=1, hard_weight=0.0, **FAST)
    with pytest.raises(InvalidDataset, match="label 4") as refusal:
        lesson.give(student, epochs=1, hard_weight=0.1, **FAST)

    assert made.digest == alone.digest
    assert "hard_weight=0 " in (refusal.value.hint or "")


def test_refuses_a_teacher_of_other_classes(lesson: Lesson, tmp_path: Path):
    class Five(Small):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images)[:, :5]

    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 5]},)
    path = tmp_path / "five" / "model.pt2"
    path.parent.mkdir()
    save_program(export(TorchModel(Five().eval(), inputs, outputs)), inputs, outputs, path)
    student, lesson.teacher = lesson.teacher, handle(path)
    with pytest.raises(BurnishError) as refusal:
        lesson.give(student, epochs=1)
    assert refusal.value.param == "inputs.teacher"
    assert "10]" in refusal.value.detail
    assert "5]" in refusal.value.detail


def test_refuses_a_zoo_student_for_text(lesson: Lesson, tmp_path: Path):
    lesson.teacher = program(untrained(Reader), read_digits().train, tmp_path / "reader")
    lesson.samples = {"train": opened(read_digits().train, tmp_path / "text")}
    with pytest.raises(BurnishError) as refusal:
        lesson.give(lesson.teacher, student="resnet18", epochs=1)
    assert refusal.value.param == "student"
    assert "tokens" in refusal.value.detail


@pytest.mark.parametrize("end", [None, "softmax"])
def test_the_divergence_is_that_of_numpy(end: str | None):
    random = np.random.default_rng(0)
    own, other = random.normal(size=(2, 6, 5)) * 3
    given = [torch.tensor(one).softmax(1) if end else torch.tensor(one) for one in (own, other)]
    shares = [np.exp(one / 4) / np.exp(one / 4).sum(1, keepdims=True) for one in (own, other)]
    wanted = 16 * np.mean(np.sum(shares[1] * (np.log(shares[1]) - np.log(shares[0])), 1))

    assert float(SoftLoss("kl", 4.0, -1, end, end)(*given)) == pytest.approx(wanted, rel=1e-4)
