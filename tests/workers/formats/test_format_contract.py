"""What holds for every format that is taken: one contract, whatever is uploaded."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import BurnishError
from app.storage import DiskStorage
from tests.workers.formats.uploads import external, inspected, linear, tarred, zipped
from workers.inspection import DatasetFound, ModelFound
from workers.onnx_files import tree_digest

FACTS = {
    "opset", "parameters", "flops", "flops_note", "operators", "domains", "precision", "size_bytes", "entry",
    "over_2gb", "producer", "control_flow",
}  # fmt: skip


def onnx_alone(path: Path) -> Path:
    path.write_bytes(linear().SerializeToString())
    return path


def onnx_archive(pack: Callable[..., Path], *mode: str) -> Callable[[Path], Path]:
    weight = external("w", [4, 3], location="w.bin")
    members = [("net/m.onnx", linear(weight).SerializeToString()), ("net/w.bin", bytes(48))]
    return lambda path: pack(path, members, *mode)


def npz(path: Path) -> Path:
    out = io.BytesIO()
    np.savez_compressed(out, x=np.ones((6, 4), np.float32), labels=np.arange(6) % 3)
    path.write_bytes(out.getvalue())
    return path


UPLOADS: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "onnx": ("model", "onnx", onnx_alone),
    "onnx in a zip": ("model", "onnx", onnx_archive(zipped)),
    "onnx in a tar": ("model", "onnx", onnx_archive(tarred)),
    "onnx in a tar.gz": ("model", "onnx", onnx_archive(tarred, "w:gz")),
    "npz": ("dataset", "npz", npz),
}


@pytest.fixture(params=UPLOADS)
def upload(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[Path], Path]]:
    return UPLOADS[request.param]


Upload = tuple[str, str, Callable[[Path], Path]]


def test_the_result_is_what_the_supervisor_reads(upload: Upload, tmp_path: Path) -> None:
    subject, name, write = upload
    found = inspected(write(tmp_path / "upload"), subject)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    kind = ModelFound if subject == "model" else DatasetFound
    assert kind.model_validate(found).format == name
    if subject == "model":
        assert set(found["facts"]) >= FACTS
        files = [file for file in Path(found["root"]).rglob("*") if file.is_file()]
        assert found["facts"]["size_bytes"] == sum(file.stat().st_size for file in files)
        assert (Path(found["root"]) / found["facts"]["entry"]).is_file()


def test_the_tree_is_stored_under_a_digest_of_its_content_alone(upload: Upload, tmp_path: Path) -> None:
    subject, _, write = upload
    roots = [
        Path(inspected(write(tmp_path / name), subject)["root"]) for name in ("first.bin", "second.onnx")
    ]
    digests = {DiskStorage(tmp_path / "store").put_tree(root).digest for root in roots}
    assert digests == {tree_digest(roots[0])}


def test_an_archive_and_its_content_are_the_same_model(tmp_path: Path) -> None:
    digests = {
        tree_digest(Path(inspected(write(tmp_path / str(number)))["root"]))
        for number, write in enumerate(
            (onnx_archive(zipped), onnx_archive(tarred), onnx_archive(tarred, "w:xz"))
        )
    }
    assert len(digests) == 1


def test_the_upload_itself_is_not_changed(upload: Upload, tmp_path: Path) -> None:
    subject, _, write = upload
    file = write(tmp_path / "upload")
    before = file.read_bytes()
    file.chmod(0o444)
    inspected(file, subject)
    assert file.read_bytes() == before


def test_two_inspections_find_the_same(upload: Upload, tmp_path: Path) -> None:
    subject, _, write = upload
    file = write(tmp_path / "upload")
    first, second = ({**inspected(file, subject), "root": None} for _ in range(2))
    assert first == second


def test_damage_ends_in_a_problem_that_names_the_upload(
    upload: Upload, tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    """Whatever is cut or flipped: it is still valid, or refused with a code that is the upload's, never `internal`."""
    subject, _, write = upload
    file = tmp_path / "damaged"
    codes: set[Any] = set()
    for data in damaged(write(tmp_path / "upload").read_bytes()):
        file.write_bytes(data)
        try:
            inspected(file, subject)
        except BurnishError as error:
            codes.add(error.code)
    assert codes <= {
        "invalid_model",
        "invalid_dataset",
        "unsupported_format",
        "unsafe_model",
        "payload_too_large",
    }
    assert codes


@pytest.mark.parametrize("name", ["a\n" + "0" * 64 + "  b", "a\u2028b", "a\r"])
def test_a_name_cannot_smuggle_a_line_into_a_trees_text(name: str, tmp_path: Path) -> None:
    """A child that was taken over could lay out such a file; its digest would be another project's blob."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="lines of the tree"):
        DiskStorage(tmp_path / "store").put_tree(tmp_path / "tree")
