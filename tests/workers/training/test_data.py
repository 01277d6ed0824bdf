"""Batches of a dataset: the same samples for any number of processes that train or read, and wherever a training is resumed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.catalog.pass_params.training import LoaderParams, TrainingParams
from app.errors import BurnishError, InvalidDataset, InvalidParams, SignatureMismatch
from workers.assignment import DatasetFiles
from workers.context import PassContext
from workers.samples import open_samples, synthetic_samples
from workers.training.batches import DatasetBatches, open_batches
from workers.training.data import describe

COUNT, CLASSES, BATCH = 50, 5, 8
IMAGES = {"name": "images", "dtype": "float32", "shape": ["batch", 3, 8, 8]}
EVERY = [
    {"do": "flip"},
    {"do": "random-crop", "padding": 2},
    {"do": "random-resized-crop"},
    {"do": "color-jitter"},
    {"do": "erase"},
    {"do": "noise", "std": 0.1},
    {"do": "mixup"},
]
Seen = list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "images": random.standard_normal((COUNT, 3, 8, 8)).astype(np.float32),
        "labels": random.integers(0, CLASSES, COUNT),
    }


Opener = Callable[..., DatasetBatches]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens arrays as batches."""
    held: list[DatasetBatches] = []

    def opener(
        given: dict[str, np.ndarray] | None = None,
        *,
        save: Callable[..., None] = np.savez,
        augment: list[dict[str, Any]] | None = None,
        ctx: PassContext | None = None,
        rank: int = 0,
        world: int = 1,
        batch_size: int = BATCH,
        **loader: Any,
    ) -> DatasetBatches:
        root = tmp_path / f"data-{len(held)}"
        root.mkdir()
        save(root / "data.npz", **(arrays() if given is None else given))
        samples = open_samples(DatasetFiles(id="dat_1", digest="0", root=root, format="npz", name="data"))
        held.append(
            open_batches(
                describe(samples, ctx),
                inputs=[IMAGES],
                batch_size=batch_size,
                seed=7,
                rank=rank,
                world=world,
                device=torch.device("cpu"),
                augment=TrainingParams.model_validate({"augment": augment or []}).augment,
                loader=LoaderParams(**loader),
                classes=CLASSES,
            )
        )
        return held[-1]

    yield opener
    for batches in held:
        batches.close()


def seen(batches: Iterator[Any]) -> Seen:
    return [
        (
            batch.indices.numpy().copy(),
            batch.inputs[0].numpy().copy(),
            None if batch.labels is None else batch.labels.numpy().copy(),
        )
        for batch in batches
    ]


def same(one: Seen, other: Seen) -> bool:
    return len(one) == len(other) and all(
        all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        for first, second in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("augment", [[], EVERY], ids=["plain", "augmented"])
@pytest.mark.parametrize(
    "loader",
    [
        {"workers": 1},
        {"workers": 2, "prefetch": 1},
        {},
        {"mode": "fixed"},
        {"workers": 0, "cache": "memory"},
        {"workers": 2, "cache": "memory"},
    ],
    ids=["one", "two", "auto", "none", "memory", "memory-two"],
)
def test_samples_are_the_same_for_any_number_of_readers(
    opened: Opener, loader: dict[str, Any], augment: list[dict[str, Any]]
) -> None:
    alone = opened(workers=0, cache="none", augment=augment)
    other = opened(augment=augment, **loader)
    for epoch in (0, 1, 2):
        assert same(seen(alone.epoch(epoch)), seen(other.epoch(epoch)))
    assert same(seen(alone.once()), seen(other.once()))


def test_samples_are_the_same_for_any_number_of_processes_that_train(opened: Opener) -> None:
    alone = seen(opened(augment=EVERY).epoch(1))
    ranks = [seen(opened(augment=EVERY, rank=rank, world=2, workers=1).epoch(1)) for rank in (0, 1)]
    together = [
        tuple(np.concatenate(parts) for parts in zip(*both, strict=True)) for both in zip(*ranks, strict=True)
    ]
    assert same(alone, together)


def test_an_epoch_goes_on_from_a_step(opened: Opener) -> None:
    batches = opened(augment=EVERY)
    whole = seen(batches.epoch(3))
    assert len(whole) == COUNT // BATCH
    assert same(whole[4:], seen(batches.epoch(3, 4)))


def test_epochs_differ_and_hold_each_sample_once(opened: Opener) -> None:
    batches = opened(batch_size=10)
    orders = [np.concatenate([indices for indices, _, _ in seen(batches.epoch(epoch))]) for epoch in (0, 1)]
    assert not np.array_equal(orders[0], orders[1])
    for order in orders:
        assert sorted(order) == list(range(COUNT))
    for indices, images, labels in seen(batches.epoch(0)):
        assert np.array_equal(images, arrays()["images"][indices])
        assert np.array_equal(labels, arrays()["labels"][indices])


@pytest.mark.parametrize("world", [1, 3])
def test_validation_reads_all_samples_once_in_order(opened: Opener, world: int) -> None:
    found = [
        index
        for rank in range(world)
        for batch in opened(rank=rank, world=world, batch_size=9).once()
        for index in batch.indices.tolist()
    ]
    assert found == list(range(COUNT))


def test_compressed_arrays_are_read_alike(opened: Opener, tmp_path: Path) -> None:
    plain = seen(opened().epoch(0))
    assert same(plain, seen(opened(save=np.savez_compressed).epoch(0)))
    work = tmp_path / "work"
    work.mkdir()
    ctx = PassContext(out=tmp_path, work=work)
    assert same(plain, seen(opened(save=np.savez_compressed, ctx=ctx, workers=1).epoch(0)))
    assert len(list(work.iterdir())) == 1


@pytest.mark.parametrize("step", EVERY, ids=lambda step: step["do"])
def test_a_random_transform_is_drawn_by_sample_and_epoch(opened: Opener, step: dict[str, Any]) -> None:
    batches = opened(augment=[step], batch_size=COUNT)
    epochs = [dict(zip(*batch[:2], strict=True)) for epoch in (0, 1) for batch in seen(batches.epoch(epoch))]
    original = arrays()["images"]
    changed = sum(not np.array_equal(epochs[0][index], original[index]) for index in range(COUNT))
    between = sum(not np.array_equal(epochs[0][index], epochs[1][index]) for index in range(COUNT))
    assert changed > COUNT / 4
    assert between > COUNT / 4
    assert epochs[0][0].shape == original[0].shape
    assert epochs[0][0].dtype == original.dtype


def test_transforms_do_what_they_say(opened: Opener) -> None:
    original = arrays()["images"]
    (indices, flipped, _), *_ = seen(opened(augment=[{"do": "flip", "probability": 1}]).epoch(0))
    assert np.array_equal(flipped, original[indices][..., ::-1])
    (indices, flipped, _), *_ = seen(
        opened(augment=[{"do": "flip", "probability": 1, "channels": "last"}]).epoch(0)
    )
    assert np.array_equal(flipped, original[indices][:, :, ::-1])
    (indices, erased, _), *_ = seen(opened(augment=[{"do": "erase", "probability": 1}]).epoch(0))
    kept = erased != 0
    assert np.array_equal(erased[kept], original[indices][kept])
    assert not kept.all()
    (indices, _, labels), *_ = seen(opened(augment=[{"do": "mixup"}]).epoch(0))
    assert labels is not None
    assert labels.shape == (BATCH, CLASSES)
    assert labels.dtype == np.float32
    assert np.allclose(labels.sum(1), 1)
    own = labels[np.arange(BATCH), arrays()["labels"][indices]]
    assert (own > 0).all()


def test_mixup_blends_numbers_too(opened: Opener) -> None:
    labels = arrays()["labels"].astype(np.float32)
    (indices, _, blended), *_ = seen(
        opened({**arrays(), "labels": labels}, augment=[{"do": "mixup"}]).epoch(0)
    )
    assert blended is not None
    assert not np.array_equal(blended, labels[indices])


def test_facts_say_how_reading_went(opened: Opener) -> None:
    batches = opened(workers=1)
    for _ in batches.epoch(0):
        torch.randn(100, 100).pinverse()
    facts = batches.facts()
    assert facts["workers"] == 1
    assert facts["samples_per_second"] > 0
    assert 0 <= facts["waited"] <= 1
    assert "samples/s" in facts["told"]


def test_generated_samples_are_batches_too() -> None:
    samples = synthetic_samples({"inputs": [IMAGES]}, seed=1, count=20)
    batches = open_batches(
        describe(samples), inputs=[IMAGES], batch_size=4, seed=1, rank=0, world=1, device=torch.device("cpu"),
        augment=[], loader=LoaderParams(),
    )  # fmt: skip
    assert batches.labels is None
    found = torch.cat([batch.inputs[0] for batch in batches.once()]).numpy()
    assert np.array_equal(found, np.concatenate([feeds["images"] for feeds, _ in samples.batches(7)]))


@pytest.mark.parametrize(
    ("change", "augment", "error", "words"),
    [
        ({"images": np.zeros((COUNT, 3, 9, 8), np.float32)}, [], SignatureMismatch, "dimension 2 of input"),
        (
            {"images": np.zeros((COUNT, 3, 8, 8), complex)},
            [],
            SignatureMismatch,
            "the dataset has complex128",
        ),
        ({"labels": np.array(["a"] * COUNT)}, [], InvalidDataset, "the labels are text"),
        (
            {"images": np.full((COUNT, 3, 8, 8), 1e300)},
            [],
            SignatureMismatch,
            "cannot hold 1e+300, in sample 10",
        ),
        (
            {"labels": np.full(COUNT, 9)},
            [{"do": "mixup"}],
            InvalidDataset,
            "sample 10 is 9; the output has classes",
        ),
        (
            {"labels": np.zeros((COUNT, 2), np.int64)},
            [{"do": "mixup"}],
            InvalidParams,
            "mixup blends labels that number",
        ),
        (
            {"images": np.zeros((COUNT, 3, 8, 8), np.uint8)},
            [{"do": "mixup"}],
            InvalidParams,
            "mixup blends floating",
        ),
    ],
    ids=["shape", "dtype", "text", "narrow", "label", "label-shape", "integers"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_is_named(
    opened: Opener,
    change: dict[str, np.ndarray],
    augment: list[dict[str, Any]],
    error: type[BurnishError],
    words: str,
    workers: int,
) -> None:
    with pytest.raises(error) as caught:
        list(opened({**arrays(), **change}, augment=augment, workers=workers).epoch(0))
    assert words in caught.value.detail
    assert caught.value.hint or caught.value.param
