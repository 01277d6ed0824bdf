"""Bundles on disk: names are not trusted, nothing of the user's is replaced, every digest is held."""

import hashlib
import json
import stat
import zipfile
from pathlib import Path

import pytest

from app.commands.bundles import check_destination, damaged_files, extract, read_manifest, unpack
from app.commands.common import USAGE, Failure


def bundle(path: Path, files: dict[str, bytes], promised: dict[str, bytes] | None = None) -> Path:
    """A zip with a manifest that promises `promised` (absent: what is in it)."""
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in (promised or files).items()
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("manifest.json", json.dumps({"files": listed}))
    return path


FILES = {"run.py": b"print('hello')\n", "engine/model.onnx": b"\x08\x09"}


def test_unpack_and_unpack_over_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpack(bundle(tmp_path / "a.zip", {**FILES, "old.bin": b"old"}), out)
    check_destination(out, force=False)
    manifest = unpack(bundle(tmp_path / "b.zip", FILES), out)
    assert set(manifest["files"]) == set(FILES)
    assert (out / "engine" / "model.onnx").read_bytes() == b"\x08\x09"
    assert not (out / "old.bin").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "out"]


def test_forced_unpacking_keeps_what_else_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    unpack(bundle(tmp_path / "a.zip", FILES), out)
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "run.py").exists()


def test_destination(tmp_path: Path) -> None:
    check_destination(tmp_path / "absent", force=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    check_destination(empty, force=False)
    (empty / "thesis.tex").write_text("years of work")
    with pytest.raises(Failure, match="holds no bundle") as caught:
        check_destination(empty, force=False)
    assert caught.value.status == USAGE
    check_destination(empty, force=True)
    with pytest.raises(Failure, match="is a file"):
        check_destination(empty / "thesis.tex", force=True)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(name, b"evil")
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    with pytest.raises(Failure, match="does not stay inside"):
        extract(archive, folder)
    assert not list(tmp_path.rglob("evil"))


def test_links_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "link.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(Failure, match="does not stay inside"):
        extract(archive, tmp_path / "out")


def test_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK but not really")
    with pytest.raises(Failure, match="no zip archive"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_denies_its_manifest_leaves_nothing(tmp_path: Path) -> None:
    archive = bundle(tmp_path / "a.zip", {**FILES, "run.py": b"evil()"}, promised=FILES)
    with pytest.raises(Failure, match=r"run\.py was changed"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_damage_is_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = unpack(bundle(tmp_path / "a.zip", FILES), out)
    assert damaged_files(out, manifest) == []
    (out / "engine" / "model.onnx").write_bytes(b"\x08\x0a")
    (out / "run.py").unlink()
    manifest["files"]["../a.zip"] = {"sha256": ""}
    assert damaged_files(out, manifest) == [
        "run.py is missing",
        "engine/model.onnx was changed",
        "../a.zip lies outside the bundle",
    ]


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="is no bundle") as caught:
        read_manifest(tmp_path)
    assert caught.value.status == USAGE
