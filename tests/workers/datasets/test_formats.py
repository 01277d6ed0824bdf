"""Datasets of each format: the same samples whichever they come from, and bad ones named."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from app.errors import InvalidDataset, PayloadTooLarge
from tests.workers.datasets.files import COUNT, files, images, members, parquet, png, tar, write_tar
from workers.assignment import InspectAssignment
from workers.context import Samples
from workers.datasets.rows import write_rows
from workers.inspect import inspect
from workers.samples import open_samples


def everything(samples: Samples, size: int = 7) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    found = list(samples.batches(size))
    feeds = {name: np.concatenate([one[name] for one, _ in found]) for name in found[0][0]}
    labels = [one for _, one in found if one is not None]
    return feeds, np.concatenate(labels) if labels else None


@pytest.mark.parametrize("make", [tar, parquet], ids=["tar", "parquet"])
def test_images_and_labels_are_read(tmp_path: Path, make: Callable[..., Any]) -> None:
    samples = open_samples(make(tmp_path))
    feeds, labels = everything(samples)
    assert samples.count == COUNT
    assert samples.inputs == {"image": ("uint8", (6, 8, 3))}
    assert samples.labels == ("int64", ())
    assert np.array_equal(feeds["image"], images())
    assert labels is not None
    assert labels.tolist() == [number % 3 for number in range(COUNT)]
    assert len(next(samples.batches(64, 5))[0]["image"]) == 5


@pytest.mark.parametrize("make", [tar, parquet], ids=["tar", "parquet"])
def test_fields_and_transforms_are_part_of_the_digest(tmp_path: Path, make: Callable[..., Any]) -> None:
    source = "png" if make is tar else "image"
    plain = open_samples(make(tmp_path))
    steps = [{"do": "normalize"}, {"do": "layout", "to": "channels-first"}]
    samples = open_samples(make(tmp_path, fields={"pixels": source}, transforms=steps))
    assert samples.inputs == {"pixels": ("float32", (3, 6, 8))}
    assert samples.labels is None
    assert samples.digest != plain.digest
    feeds, _ = everything(samples)
    assert np.allclose(feeds["pixels"], images().transpose(0, 3, 1, 2) / np.float32(255), atol=1e-6)


def test_any_sample_of_a_tar_is_read_by_its_number(tmp_path: Path) -> None:
    samples = open_samples(tar(tmp_path))
    for index in (13, 2, 19):
        feeds, label = samples.sample(index)  # type: ignore[attr-defined]
        assert np.array_equal(feeds["image"], images()[index])
        assert label == index % 3


@pytest.mark.parametrize("make", [tar, parquet], ids=["tar", "parquet"])
def test_rows_hold_what_was_read(tmp_path: Path, make: Callable[..., Any]) -> None:
    samples = open_samples(make(tmp_path))
    (tmp_path / "rows").mkdir()
    rows = write_rows(samples, tmp_path / "rows")
    (mine, labels), (theirs, others) = everything(rows), everything(samples)
    assert np.array_equal(mine["image"], theirs["image"])
    assert np.array_equal(labels, others)  # type: ignore[arg-type]
    assert rows.inputs == samples.inputs
    assert rows.labels == samples.labels


def test_lists_numbers_and_arrays_are_read(tmp_path: Path) -> None:
    tokens = np.arange(COUNT * 4).reshape(COUNT, 4)
    columns = {
        "ids": tokens.tolist(),
        "grid": [[[1.5, 2.0], [3.0, n]] for n in range(COUNT)],
        "targets": pa.array(np.arange(COUNT, dtype=np.float32)),
        "comment": ["text"] * COUNT,
    }
    feeds, labels = everything(open_samples(parquet(tmp_path, columns)))
    assert np.array_equal(feeds["ids"], tokens)
    assert feeds["grid"].shape == (COUNT, 2, 2)
    assert feeds["comment"].dtype.kind == "U"
    assert labels is not None
    assert labels.dtype == np.float32


def test_arrays_of_a_tar_are_read(tmp_path: Path) -> None:
    import io

    stream = io.BytesIO()
    np.save(stream, np.arange(6.0).reshape(2, 3))
    given = [
        pair
        for n in range(3)
        for pair in ((f"{n}.ids.npy", stream.getvalue()), (f"{n}.json", b"[1, 2]"), (f"{n}.txt", b"words"))
    ]
    fields = {"ids": "ids.npy", "pair": "json", "words": "txt"}
    feeds, _ = everything(open_samples(tar(tmp_path, given, fields=fields)))
    assert np.array_equal(feeds["ids"][2], np.arange(6.0).reshape(2, 3))
    assert feeds["pair"].tolist() == [[1, 2]] * 3
    assert feeds["words"].tolist() == ["words"] * 3


def test_arrays_of_an_npz_are_transformed_too(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "data.npz", pixels=images().transpose(0, 3, 1, 2), y=np.arange(COUNT))
        steps = [{"do": "resize", "height": 3, "width": 4}, {"do": "normalize", "mean": [0.1, 0.2, 0.3]}]
        samples = open_samples(files(tmp_path, "npz", transforms=steps))
        assert samples.inputs == {"pixels": ("float32", (3, 3, 4))}
        feeds, labels = everything(samples)
        assert labels is not None
        assert labels.tolist() == list(range(COUNT))
        assert abs(float(feeds["pixels"].mean()) - 0.3) < 0.02


def inspected(tmp_path: Path, file: Path, most: int = 10**9, **declared: Any) -> dict[str, Any]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return inspect(
        InspectAssignment(
            subject="dataset",
            subject_id="dat_1",
            scratch=scratch,
            file=file,
            filename=file.name,
            declared=declared,
            max_archive_bytes=most,
            max_archive_files=1000,
        ),
        lambda message: None,
    )


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"], ids=["plain", "gzip", "xz"])
def test_a_tar_is_inspected(tmp_path: Path, mode: str) -> None:
    file = write_tar(tmp_path / "upload", members(), mode)
    found = inspected(tmp_path, file, transforms=[{"do": "grayscale"}])
    assert found["format"] == "tar"
    assert found["samples"] == COUNT
    assert found["inputs"] == {"image": {"dtype": "uint8", "shape": [6, 8, 1]}}
    assert found["labels"] == {"name": "labels", "dtype": "int64", "shape": [], "classes": 3}
    opened = open_samples(files(Path(found["root"]), "tar", transforms=[{"do": "grayscale"}]))
    assert opened.count == COUNT


def test_a_parquet_file_is_inspected(tmp_path: Path) -> None:
    parquet(tmp_path)
    found = inspected(tmp_path, tmp_path / "data.parquet")
    assert found["format"] == "parquet"
    assert found["labels"] == {"name": "label", "dtype": "int64", "shape": [], "classes": 3}


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "upload", [("0.npy", bytes(10**6))], "w:gz")
    with pytest.raises(PayloadTooLarge):
        inspected(tmp_path, file, most=10**5)


def test_a_table_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path, {"x": [[0.0] * 1000] * 1000})
    with pytest.raises(PayloadTooLarge):
        inspected(tmp_path, tmp_path / "data.parquet", most=1000)


def damaged_png() -> bytes:
    data = bytearray(png(images()[0]))
    data[60] ^= 0xFF
    return bytes(data)


def huge_png() -> bytes:
    """It says that it has 30,000 × 30,000 pixels."""
    data = bytearray(png(images()[0]))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


BAD_TARS: dict[str, tuple[Callable[[], list[tuple[str, bytes]]], dict[str, Any], str]] = {
    "size": (
        lambda: [*members(), *members(images(1, 5, 5))[:1], ("train/0000.cls", b"1")],
        {},
        "sample 20 (train/0000): 'image' is uint8 [5, 5, 3], of sample 0 it is uint8 [6, 8, 3]",
    ),
    "damaged": (
        lambda: [*members(), ("x.png", damaged_png()), ("x.cls", b"0")],
        {},
        "sample 20 (x) cannot be read: its file .png",
    ),
    "huge": (
        lambda: [*members(), ("x.png", huge_png()), ("x.cls", b"0")],
        {},
        "sample 20 (x) cannot be read: its file .png: it has",
    ),
    "missing": (
        lambda: [*members(), ("x.png", png(images()[0]))],
        {},
        "sample 20 (x) cannot be read: it has no file .cls",
    ),
    "label": (
        lambda: [*members(), ("x.png", png(images()[0])), ("x.cls", b"cat")],
        {},
        "sample 20 (x) cannot be read: its file .cls",
    ),
    "twice": (
        lambda: [("0.png", png(images()[0])), ("0.cls", b"1"), ("0.png", b"")],
        {},
        "the archive holds '0.png' twice",
    ),
    "field": (members, {"fields": {"image": "jpg"}}, "is to come from 'jpg'; a sample has png, cls"),
    "empty": (lambda: [("0/.hidden", b"x")], {}, "the archive holds no sample"),
    "nothing": (lambda: [("0.bin", b"x")], {}, "nothing in the file is an array by itself"),
    "kind": (lambda: [("0.bin", b"x")], {"fields": {"x": "bin"}}, "is of no kind that is read"),
    "crop": (
        members,
        {"transforms": [{"do": "center-crop", "height": 9, "width": 4}]},
        "sample 0 (train/0000) cannot be read: center-crop of 'image': an image of 6 × 8 has no part of 9 × 4",
    ),
    "channels": (
        members,
        {"transforms": [{"do": "normalize", "mean": [1, 2]}]},
        "mean has 2 numbers, the last axis",
    ),
    "not-finite": (
        lambda: [("0.json", b"[1.0, NaN]")],
        {"fields": {"x": "json"}},
        "sample 0 (0): 'x' holds a value that is not finite",
    ),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_a_bad_tar_is_refused(tmp_path: Path, case: str) -> None:
    make, declared, words = BAD_TARS[case]
    file = write_tar(tmp_path / "upload", make())
    with pytest.raises(InvalidDataset) as caught:
        inspected(tmp_path, file, **declared)
    assert words in caught.value.detail


def test_a_tar_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "upload", members())
    data = file.read_bytes()
    for end in (len(data) // 2 // 512 * 512 - 300, 700):
        file.write_bytes(data[:end])
        with pytest.raises(InvalidDataset):
            inspected(tmp_path, file)
        (tmp_path / "scratch" / "tree" / "data.tar").unlink()
        (tmp_path / "scratch" / "tree").rmdir()


@pytest.mark.parametrize(
    ("columns", "declared", "words"),
    [
        ({"x": [1.0, None]}, {}, "sample 1 cannot be read: its column 'x' is null"),
        ({"x": [[1, 2], [1]]}, {}, "sample 1: 'x' is int64 [1], of sample 0 it is int64 [2]"),
        ({"x": [[[1], [2]], [[1], [2, 3]]]}, {}, "sample 1 cannot be read"),
        ({"x": [b"no image"]}, {}, "sample 0 cannot be read: its column 'x'"),
        ({"x": [{"a": 1}]}, {"fields": {"y": "x"}}, "column 'x' holds struct"),
        ({"x": [{"a": 1}]}, {}, "nothing in the file is an array by itself"),
        ({"x": [1.0, float("nan")]}, {}, "sample 1: 'x' holds a value that is not finite"),
        ({"x": pa.array([], pa.int64())}, {}, "the dataset holds no sample"),
    ],
    ids=["null", "lengths", "ragged", "bytes", "struct", "nothing", "not-finite", "empty"],
)
def test_a_bad_parquet_file_is_refused(
    tmp_path: Path, columns: dict[str, Any], declared: dict[str, Any], words: str
) -> None:
    parquet(tmp_path, columns)
    with pytest.raises(InvalidDataset) as caught:
        inspected(tmp_path, tmp_path / "data.parquet", **declared)
    assert words in caught.value.detail


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path)
    data = (tmp_path / "data.parquet").read_bytes()
    for number, changed in enumerate((data[:-20], data[:4], data[:200] + bytes(300) + data[500:])):
        file = tmp_path / f"bad-{number}"
        file.write_bytes(changed)
        with pytest.raises(InvalidDataset):
            inspected(tmp_path, file)
        (tmp_path / "scratch" / "tree" / "data.parquet").unlink()
        (tmp_path / "scratch" / "tree").rmdir()
