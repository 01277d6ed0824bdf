"""`.npz` datasets: what is found in them, what is refused, and that reading holds one piece at a time."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from app.errors import InvalidDataset, PayloadTooLarge
from tests.workers.formats.uploads import inspected, zipped
from workers.assignment import DatasetFiles
from workers.samples import open_samples


def described(path: Path, **given: Any) -> dict[str, Any]:
    return inspected(path, "dataset", **given)


def stored(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The header of an array that may not exist."""
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_described_without_their_sample_axis(save: Callable[..., None], tmp_path: Path) -> None:
    with (tmp_path / "upload").open("wb") as file:
        save(
            file,
            image=np.zeros((5, 3, 8, 8), np.float32),
            ids=np.zeros((5, 7), np.int64),
            text=np.array(["a", "bc", "d", "e", "f"]),
            labels=np.array([0, 4, 4, 9, 0]),
        )
    found = described(tmp_path / "upload")
    assert found["samples"] == 5
    assert found["inputs"] == {
        "image": {"dtype": "float32", "shape": [3, 8, 8]},
        "ids": {"dtype": "int64", "shape": [7]},
        "text": {"dtype": "string", "shape": []},
    }
    assert found["labels"] == {"name": "labels", "dtype": "int64", "shape": [], "classes": 3}


@pytest.mark.parametrize("name", ["labels", "label", "y", "targets"])
def test_labels_go_by_these_names(name: str, tmp_path: Path) -> None:
    found = described(stored(tmp_path / "d", x=np.ones((4, 2)), **{name: np.ones((4, 3))}))
    assert found["labels"] == {"name": name, "dtype": "float64", "shape": [3], "classes": None}
    assert list(found["inputs"]) == ["x"]


def test_a_lone_array_is_an_input_whatever_its_name(tmp_path: Path) -> None:
    found = described(stored(tmp_path / "d", y=np.ones((4, 2))))
    assert found["labels"] is None
    assert list(found["inputs"]) == ["y"]


def test_classes_are_counted_over_all_samples(tmp_path: Path) -> None:
    labels = np.arange(30_000) % 1000
    assert described(stored(tmp_path / "d", x=np.ones((30_000, 1)), y=labels))["labels"]["classes"] == 1000


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((3, 2)), "z": np.ones((4, 2))}, r"different numbers.*'x': 3.*'z': 4"),
        ({"x": np.ones((0, 2))}, "no sample"),
        ({"x": np.ones((3, 0))}, "empty"),
        ({"x": np.float32(1)}, "scalar"),
        ({"x": np.array([{}, 1], dtype=object)}, "Python objects"),
        ({"x": np.zeros(2, dtype=[("a", "f4")])}, "structured"),
        ({"x": np.zeros(2, dtype="M8[s]")}, "dtype"),
        ({"x": np.zeros(2, dtype=complex)}, "dtype"),
        ({"x": np.asfortranarray(np.ones((3, 2)))}, "Fortran"),
        ({"x": np.array([[1.0], [np.nan]])}, "not finite, in sample 1"),
        ({}, "no array"),
    ],
)
def test_what_no_network_can_take_is_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=said):
        described(stored(tmp_path / "d", **arrays))


@pytest.mark.parametrize(
    "members",
    [
        [("x.npy", header((4, 2**40, 2**40)))],  # 2^84 bytes, 0 where sizes wrap around
        [("x.npy", header((-4, 2)))],
        [("x.npy", header((-2, -2)) + bytes(16))],
        [("x.npy", header((3, 2)) + bytes(20))],
        [("x.npy", header((3, 2)) + bytes(28))],
        [("x.npy", b"\x93NUMPY\x09\x00 no such version")],
        [("x.npy", b"")],
        [("x.npy", header((1, 1)) + bytes(4)), ("README", b"text")],
        [("x.npy", header((1, 1), "|O") + bytes(8))],
    ],
)
def test_headers_that_lie_are_refused(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset):
        described(zipped(tmp_path / "d", members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    member = ("x.npy", header((1, 1)) + bytes(4))
    with pytest.raises(InvalidDataset, match="same name"):
        described(zipped(tmp_path / "d", [member, member]))


def test_a_bomb_is_refused_by_its_headers(tmp_path: Path) -> None:
    with (tmp_path / "d").open("wb") as file:
        np.savez_compressed(file, x=np.zeros((1000, 1000)))
    assert (tmp_path / "d").stat().st_size < 100_000
    with pytest.raises(PayloadTooLarge, match="1000000 bytes"):
        described(tmp_path / "d", max_archive_bytes=1_000_000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_the_files_fault(
    save: Callable[..., None], tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    out = io.BytesIO()
    save(out, x=np.random.default_rng(0).random((20, 5)), y=np.arange(20))
    refused = 0
    for data in damaged(out.getvalue()):
        (tmp_path / "d").write_bytes(data)
        try:
            described(tmp_path / "d")
        except (InvalidDataset, PayloadTooLarge):
            refused += 1
    assert refused > 100


def test_one_array_is_told_to_be_named(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((2, 3)))
    with pytest.raises(InvalidDataset, match="one array") as caught:
        described(tmp_path / "d.npy")
    assert "numpy.savez" in str(caught.value.hint)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"x,y\n1,2\n"):
        (tmp_path / "d").write_bytes(data)
        with pytest.raises(InvalidDataset, match="npz"):
            described(tmp_path / "d")


def test_foreign_byte_orders_are_read_as_the_machines(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = described(stored(tmp_path / "d", x=values.astype(">f4")))
    assert found["inputs"]["x"]["dtype"] == "float32"
    files = DatasetFiles(id="d", digest="0" * 64, root=found["root"], format="npz", name="d")
    (feeds, _), *_ = open_samples(files).batches(3)
    assert feeds["x"].dtype == np.dtype("=f4")
    np.testing.assert_array_equal(feeds["x"], values)


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from workers.formats import npz
from workers.npz import read_headers
from workers.samples import NpzSamples
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path, before, total = Path(sys.argv[1]), peak(), 0.0
found = npz.describe(path, 1 << 40)
samples = NpzSamples(path, "0" * 64, read_headers(path))
for feeds, labels in samples.batches(32):
    total += float(feeds["x"].sum())
print((peak() - before) // 1024, found["samples"], total)
"""


def test_memory_is_constant_whatever_the_size(tmp_path: Path) -> None:
    """480 MB of samples, compressed, go through a small part of that."""
    with (tmp_path / "d").open("wb") as file:
        np.savez_compressed(file, x=np.ones((4000, 3, 100, 100), np.float32), labels=np.zeros(4000, np.int64))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "d")], capture_output=True, text=True, check=True
    )
    megabytes, samples, total = done.stdout.split()
    assert int(megabytes) < 120
    assert (int(samples), float(total)) == (4000, 4000 * 30_000)
