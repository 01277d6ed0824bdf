"""Archives: what is laid out, and what is refused before it can harm."""

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.errors import InvalidModel, PayloadTooLarge
from app.storage import TreeFile, parse_tree, tree_text
from tests.workers.formats.uploads import LIMIT_BYTES, LIMIT_FILES, tarred, zipped
from workers.archive import is_archive, unpack

KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def pack(kind: str, path: Path, members: list[tuple[str, bytes]]) -> Path:
    if kind == "zip":
        return zipped(path, members)
    return tarred(path, members, {"tar": "w"}.get(kind, f"w:{kind[4:]}"))


def unpacked(file: Path, max_bytes: int = LIMIT_BYTES, max_files: int = LIMIT_FILES) -> dict[str, bytes]:
    out = file.parent / f"out-{file.name}"
    unpack(file, out, max_bytes, max_files)
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_common_folder_and_the_systems_droppings_are_taken_away(kind: str, tmp_path: Path) -> None:
    members = [
        ("./net/m.onnx", b"model"),
        ("net/w/a.bin", b"weights"),
        ("__MACOSX/net/._m.onnx", b"fork"),
        ("net/.DS_Store", b"folder"),
    ]
    assert unpacked(pack(kind, tmp_path / "a", members)) == {"m.onnx": b"model", "w/a.bin": b"weights"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name",
    [
        "../m.onnx",
        "a/../../m.onnx",
        "/etc/m.onnx",
        "C:/m.onnx",
        "a\\m.onnx",
        "a\nb.onnx",
        "a\u2028b",
        "a\x85b",
    ],
)
def test_names_that_leave_the_folder_or_break_its_lines_are_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidModel) as caught:
        unpacked(pack(kind, tmp_path / "a", [(name, b"x")]))
    assert caught.value.hint
    assert not (tmp_path / "m.onnx").exists()


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="unusable name"):
        unpacked(tarred(tmp_path / "a", [("m\udcff.onnx", b"x")]))


@pytest.mark.parametrize("name", ["a/" * 40 + "m", "a" * 300, "/".join(["a" * 200] * 6)])
def test_paths_that_a_disk_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="too long a path"):
        unpacked(zipped(tmp_path / "a", [(name, b"x")]))


def test_every_accepted_name_survives_a_trees_text(tmp_path: Path) -> None:
    name = "two  spaces/ünï-\u00a0 '\".onnx"
    found = unpacked(zipped(tmp_path / "a", [(name, b"x"), ("b", b"y")]))
    assert name in found
    entries = [TreeFile(path, "0" * 64) for path in sorted(found)]
    assert parse_tree(tree_text(entries)) == entries


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(type_: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("m.onnx")
    info.type, info.linkname = type_, "/etc/passwd"
    with pytest.raises(InvalidModel, match="link or a device"):
        unpacked(tarred(tmp_path / "a", [("x", b"x"), info]))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("m.onnx")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidModel, match="link or a device"):
        unpacked(tmp_path / "a")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="twice"):
        unpacked(pack(kind, tmp_path / "a", [("m", b"1"), ("./m", b"2")]))


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    for number, names in enumerate((("a", "a/b"), ("a/b", "a"))):
        with pytest.raises(InvalidModel, match="both a file and a folder"):
            unpacked(zipped(tmp_path / f"z{number}", [(name, b"x") for name in names]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_stopped_at_the_limit(kind: str, tmp_path: Path) -> None:
    file = pack(kind, tmp_path / "bomb", [("m", b"\0" * 8_000_000), ("n", b"\0" * 8_000_000)])
    with pytest.raises(PayloadTooLarge) as caught:
        unpacked(file, max_bytes=5_000_000)
    assert "BURNISH_MAX_ARCHIVE_BYTES" in str(caught.value.hint)
    written = sum(path.stat().st_size for path in (tmp_path / "out-bomb").rglob("*"))
    assert written <= 5_000_000


def test_a_bomb_under_an_ignored_name_is_stopped_too(tmp_path: Path) -> None:
    file = tarred(tmp_path / "bomb", [("__MACOSX/x", b"\0" * 9_000_000)], "w:gz")
    with pytest.raises(PayloadTooLarge):
        unpacked(file, max_bytes=1_000_000)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_members_are_refused_folders_counted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "many"
    if kind == "zip":
        zipped(path, [(f"d{number}/", b"") for number in range(LIMIT_FILES + 1)])
    else:
        folders = [tarfile.TarInfo(f"d{number}") for number in range(LIMIT_FILES + 1)]
        for folder in folders:
            folder.type = tarfile.DIRTYPE
        tarred(path, folders)
    with pytest.raises(PayloadTooLarge, match="files and folders"):
        unpacked(path)


def test_an_oversized_tar_header_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    (tmp_path / "a").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 100_000)
    with pytest.raises(InvalidModel, match="oversized header"):
        unpacked(tmp_path / "a")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_damage_is_found_wherever_it_lies(kind: str, how: str, tmp_path: Path) -> None:
    """Also in stored blocks, where only the checksum at the end tells."""
    file = pack(kind, tmp_path / "a", [("m.onnx", b"model"), ("w.bin", os.urandom(200_000))])
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 0xFF
    file.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    with pytest.raises(InvalidModel):
        unpacked(file)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    file = zipped(tmp_path / "a", [("m", b"x")])
    data = bytearray(file.read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(data)
    with pytest.raises(InvalidModel, match="encrypted"):
        unpacked(file)


def test_damage_anywhere_is_the_archives_fault(
    tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    members = [("net/m.onnx", bytes(range(256))), ("net/w.bin", os.urandom(1000))]
    for kind in KINDS:
        original = pack(kind, tmp_path / kind, members).read_bytes()
        for number, data in enumerate(damaged(original)):
            file = tmp_path / f"{kind}-{number}"
            file.write_bytes(data)
            if is_archive(file):
                with suppress(InvalidModel, PayloadTooLarge):
                    unpacked(file)
