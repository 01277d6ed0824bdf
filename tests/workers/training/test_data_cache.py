"""What must be decoded is decoded once, and kept: for the epochs of a job, and for other jobs."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from app.catalog.pass_params.training import LoaderParams
from app.errors import InvalidDataset
from tests.workers.datasets.files import COUNT, files, images, members, parquet, png, tar
from workers.context import PassContext
from workers.samples import open_samples
from workers.training.batches import DatasetBatches, open_batches
from workers.training.data import describe

IMAGES = {"name": "image", "dtype": "float32", "shape": ["batch", 3, 6, 8]}
STEPS = [{"do": "normalize"}, {"do": "layout", "to": "channels-first"}]


class Store:
    """Steps that are kept by their cause, as a job has them."""

    def __init__(self, root: Path):
        self.root, self.done = root, list[str]()

    def __call__(self, name: str, cause: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]) -> Path:
        folder = self.root / str(abs(hash((name, str(sorted(cause.items()))))))
        if not folder.exists():
            folder.mkdir(parents=True)
            work(folder)
            self.done.append(name)
        return folder


def opened(described: dict[str, Any], **loader: Any) -> DatasetBatches:
    return open_batches(
        described, inputs=[IMAGES], batch_size=5, seed=1, rank=0, world=1, device=torch.device("cpu"), augment=[],
        loader=LoaderParams(**loader),
    )  # fmt: skip


def read(batches: DatasetBatches) -> list[np.ndarray]:
    found = [
        part.numpy() for batch in batches.epoch(0) for part in (batch.indices, *batch.inputs, batch.labels)
    ]
    batches.close()
    return found


@pytest.mark.parametrize("make", [tar, parquet], ids=["tar", "parquet"])
def test_samples_are_the_same_from_any_cache(tmp_path: Path, make: Callable[..., Any]) -> None:
    fields = {"image": "png", "labels": "cls"} if make is tar else {"image": "image", "labels": "label"}
    samples = open_samples(make(tmp_path, fields=fields, transforms=STEPS))
    (tmp_path / "work").mkdir()
    store = Store(tmp_path / "store")
    ctx = PassContext(out=tmp_path, work=tmp_path / "work", stored=store)
    found = {
        cache: read(opened(describe(samples, ctx, cache), cache=cache, workers=workers))
        for cache, workers in (("none", 0), ("memory", 1), ("disk", 1), ("auto", 0))
    }
    alone = read(opened(describe(samples)))
    assert len(alone) == 3 * COUNT // 5
    for other in found.values():
        assert all(np.array_equal(one, two) for one, two in zip(alone, other, strict=True))
    whole = images().transpose(0, 3, 1, 2) / np.float32(255)
    assert np.allclose(alone[1], whole[alone[0]], atol=1e-6)
    assert store.done == ["prepare:samples"]


def test_another_transform_is_another_step(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    store = Store(tmp_path / "store")
    ctx = PassContext(out=tmp_path, work=tmp_path / "work", stored=store)
    for steps in (STEPS, STEPS, [STEPS[0]]):
        describe(open_samples(tar(tmp_path, transforms=steps)), ctx)
    assert len(store.done) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_named_while_training(tmp_path: Path, workers: int) -> None:
    given = [*members(), ("x.png", png(images(1, 3, 3)[0])), ("x.cls", b"1")]
    samples = open_samples(tar(tmp_path, given, transforms=STEPS))
    batches = opened(describe(samples), workers=workers, cache="none")
    with pytest.raises(InvalidDataset, match=r"sample 20 \(x\): 'image' is float32 \[3, 3, 3\]"):
        list(batches.once())
    batches.close()


ROW = 2_000_000  # bytes of a sample


def wide(root: Path, left: float, world: int = 1, **loader: Any) -> DatasetBatches:
    """40 MB of rows, of a job that may hold so many times as much again besides what it holds."""
    with (root / "data.npz").open("wb") as stream:
        np.savez(stream, image=np.arange(COUNT, dtype=np.uint8).repeat(ROW).reshape(COUNT, ROW))
    held = world * psutil.Process().memory_info().rss
    return open_batches(
        describe(open_samples(files(root, "npz"))), inputs=[{"name": "image", "dtype": "uint8", "shape": [None, ROW]}],
        batch_size=5, seed=1, rank=0, world=world, device=torch.device("cpu"), augment=[],
        loader=LoaderParams(**loader), memory_bytes=held + int(left * COUNT * ROW),
    )  # fmt: skip


def kept(batches: DatasetBatches) -> bool:
    found = "kept in memory" in batches.facts()["told"]
    batches.close()
    return found


@pytest.mark.parametrize("loader", [{}, {"workers": 0}, {"workers": 1}], ids=["auto", "none", "one"])
def test_auto_keeps_in_memory_what_fits_where_the_network_waits(
    tmp_path: Path, loader: dict[str, Any]
) -> None:
    batches = wide(tmp_path, 8, **loader)
    for epoch in range(2):  # the first is measured
        assert sum(len(batch.indices) for batch in batches.epoch(epoch)) == COUNT
    os.truncate(tmp_path / "data.npz", 0)
    for batch in batches.epoch(2):
        assert torch.equal(batch.inputs[0], batch.indices.to(torch.uint8)[:, None].expand(-1, ROW))
    assert kept(batches)


@pytest.mark.parametrize(
    ("left", "given"),
    [
        (2, {}),
        (6, {"world": 2}),
        (-1e6, {}),
        (100, {"mode": "fixed"}),
        (100, {"cache": "disk"}),
    ],
    ids=["too-large", "too-large-twice", "no-room", "fixed", "disk"],
)
def test_auto_keeps_nothing_in_memory_that_does_not_fit_or_is_to_lie_elsewhere(
    tmp_path: Path, left: float, given: dict[str, Any]
) -> None:
    batches = wide(tmp_path, left, **given)
    list(batches.epoch(0))
    assert not kept(batches)


def test_auto_keeps_nothing_in_memory_where_the_network_does_not_wait(tmp_path: Path) -> None:
    batches = wide(tmp_path, 100)
    for _ in batches.epoch(0):
        time.sleep(1)
    assert not kept(batches)


def test_reading_holds_no_more_memory_for_more_samples(tmp_path: Path) -> None:
    """Rows of 300 MB, read twice: none of them stays resident (`datasets/file_rows.py`)."""
    count, size = 1500, 200_000
    with (tmp_path / "data.npz").open("wb") as stream:
        np.savez(stream, image=np.zeros((count, size), np.uint8))
    described = describe(open_samples(files(tmp_path, "npz")))
    batches = open_batches(
        described, inputs=[{"name": "image", "dtype": "uint8", "shape": [None, size]}], batch_size=5, seed=1, rank=0,
        world=1, device=torch.device("cpu"), augment=[], loader=LoaderParams(workers=0),
    )  # fmt: skip
    next(batches.epoch(0))
    resident = psutil.Process().memory_info
    before = most = resident().rss
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            assert not batch.inputs[0].any()
            most = max(most, resident().rss)
    batches.close()
    assert most - before < 50_000_000
