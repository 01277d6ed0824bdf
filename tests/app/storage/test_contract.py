"""What both stores promise: a directory, and a bucket on a real S3-compatible server."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest

from app.errors import Conflict, NotFound, PayloadTooLarge
from app.storage import Blob, DiskStorage, Storage, tree_text
from tests.app.storage.conftest import PART, leftovers

BIG = random.Random(4).randbytes(2 * PART + 12_345)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def blob_of(data: bytes) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


def read(storage: Storage, digest: str, *range_: int) -> bytes:
    return b"".join(storage.open(digest, *range_))


def test_stored_bytes_come_back_whole_and_by_ranges(storage: Storage) -> None:
    data = b"0123456789" * 1000
    blob = storage.put([data[:5000], data[5000:]])
    assert blob == blob_of(data)
    assert storage.exists(blob.digest)
    assert list(storage.digests()) == [blob.digest]
    assert read(storage, blob.digest) == data
    assert read(storage, blob.digest, 9_990) == data[-10:]
    assert read(storage, blob.digest, 3, 7) == b"3456"
    assert read(storage, blob.digest, 9_998, 20_000) == b"89"
    assert read(storage, blob.digest, 7, 7) == b""
    assert read(storage, blob.digest, 10_000) == b""
    assert leftovers(storage) == []


def test_an_empty_blob_is_one_too(storage: Storage, tmp_path: Path) -> None:
    blob = storage.put([])
    assert blob == blob_of(b"")
    assert read(storage, blob.digest) == b""
    assert storage.materialize_file(blob.digest, tmp_path / "empty").read_bytes() == b""


def test_a_blob_of_several_parts(storage: Storage, tmp_path: Path) -> None:
    blob = storage.put(pieces(BIG, 1_000_003))
    assert blob == blob_of(BIG)
    assert read(storage, blob.digest) == BIG
    assert read(storage, blob.digest, PART - 5, PART + 5) == BIG[PART - 5 : PART + 5]
    assert storage.materialize_file(blob.digest, tmp_path / "big").read_bytes() == BIG
    assert leftovers(storage) == []


def test_a_large_file_is_stored_under_its_digest(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    for _ in range(2):
        assert storage.put_file(path) == blob_of(BIG)
        assert read(storage, blob_of(BIG).digest) == BIG
    assert leftovers(storage) == []


@pytest.mark.parametrize("data", [b"x" * 1000, BIG], ids=["small", "big"])
def test_what_is_larger_than_its_limit_leaves_nothing(storage: Storage, data: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        storage.put(pieces(data, 100_000), limit_bytes=len(data) - 1)
    assert list(storage.digests()) == leftovers(storage) == []
    assert storage.put(pieces(data, 100_000), limit_bytes=len(data)) == blob_of(data)


def test_what_breaks_off_leaves_nothing(storage: Storage) -> None:
    def broken() -> Iterator[bytes]:
        yield BIG
        raise ConnectionError

    with pytest.raises(ConnectionError):
        storage.put(broken())
    assert list(storage.digests()) == leftovers(storage) == []


def test_trees_are_blobs(storage: Storage, tmp_path: Path) -> None:
    files = {"model.onnx": b"a graph", "weights/à.bin": b"1" * 100, "weights/b.bin": b"a graph"}
    source = tmp_path / "tree"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    tree = storage.put_tree(source)
    entries = storage.tree(tree.digest)
    assert {entry.path: read(storage, entry.digest) for entry in entries} == files
    assert tree == Blob(hashlib.sha256(tree_text(entries).encode()).hexdigest(), 114)
    laid = storage.materialize(tree.digest, tmp_path / "laid")
    assert {str(path.relative_to(laid)): path.read_bytes() for path in laid.rglob("*.*")} == files
    assert len(list(storage.digests())) == 3


def test_what_makes_no_tree(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    with pytest.raises(ValueError, match="empty"):
        storage.put_tree(folder)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="neither"):
        storage.put_tree(folder)
    (folder / "link").unlink()
    (folder / "a\nb").touch()
    with pytest.raises(ValueError, match="line"):
        storage.put_tree(folder)


@pytest.mark.parametrize("digest", ["0" * 64, "../" * 21 + "a", "A" * 64, ""])
def test_what_is_not_there_is_not_found(storage: Storage, tmp_path: Path, digest: str) -> None:
    for ask in (
        lambda: read(storage, digest),
        lambda: read(storage, digest, 3, 7),
        lambda: storage.tree(digest),
        lambda: storage.materialize(digest, tmp_path),
        lambda: storage.materialize_file(digest, tmp_path / "file"),
    ):
        with pytest.raises(NotFound):
            ask()
    assert not (tmp_path / "file").exists()
    if len(digest) == 64 and digest.isdigit():
        assert not storage.exists(digest)
        assert storage.delete(digest) is storage.stat(digest) is None
    else:
        with pytest.raises(NotFound):
            storage.exists(digest)


def test_old_blobs_are_removed_and_young_ones_stay(storage: Storage, grow_old: Callable[[], None]) -> None:
    old = storage.put([b"old"])
    grow_old()
    young = storage.put([b"young"])
    found = {digest: storage.stat(digest) for digest in storage.digests()}
    assert {digest: (size, age > 3600) for digest, (size, age) in found.items()} == {
        old.digest: (3, True),
        young.digest: (5, False),
    }
    assert storage.delete(young.digest, older_than_seconds=3600) is None
    assert storage.delete(old.digest, older_than_seconds=3600) == 3
    assert storage.delete(old.digest, older_than_seconds=3600) is None
    assert list(storage.digests()) == [young.digest]
    assert storage.delete(young.digest) == 5
    assert list(storage.digests()) == leftovers(storage) == []


@pytest.mark.parametrize("way", ["put", "put_file", "partial"])
@pytest.mark.parametrize("data", [b"again", BIG], ids=["small", "big"])
def test_what_is_stored_again_is_young(
    storage: Storage, grow_old: Callable[[], None], tmp_path: Path, way: str, data: bytes
) -> None:
    digest = storage.put([data]).digest
    grow_old()
    if way == "put":
        storage.put([data])
    elif way == "put_file":
        (tmp_path / "file").write_bytes(data)
        storage.put_file(tmp_path / "file")
    else:
        partial = storage.partial("upl_again")
        writer = partial.append(0)
        writer.write(data)
        writer.close()
        partial.commit()
    assert storage.delete(digest, older_than_seconds=3600) is None
    assert read(storage, digest) == data


@pytest.mark.parametrize("data", [b"twice" * 100, BIG], ids=["small", "big"])
def test_two_writers_of_the_same_bytes(storage: Storage, data: bytes) -> None:
    together = Barrier(2)

    def store() -> Blob:
        writer = storage.writer()
        writer.write(data)
        together.wait(60)
        return writer.commit()

    with ThreadPoolExecutor(2) as threads:
        blobs = [future.result() for future in [threads.submit(store) for _ in range(2)]]
    assert blobs == [blob_of(data)] * 2
    assert read(storage, blobs[0].digest) == data
    assert leftovers(storage) == []


def test_a_partial_grows_over_several_requests(storage: Storage) -> None:
    cuts = [0, 7, 7, 1_000_000, PART + 3, 2 * PART, len(BIG)]
    for start, end in pairwise(cuts):
        partial = storage.partial("upl_b1g")
        assert partial.size() == start
        writer = partial.append(start)
        for piece in pieces(BIG[start:end], 700_001):
            writer.write(memoryview(piece))
        assert writer.close() == end
    assert [id for id, age in storage.partials() if age < 3600] == ["upl_b1g"]
    assert list(storage.digests()) == []
    assert storage.partial("upl_b1g").commit() == blob_of(BIG)
    assert read(storage, blob_of(BIG).digest) == BIG
    assert storage.partial("upl_b1g").size() == 0
    assert list(storage.partials()) == leftovers(storage) == []


def test_a_partial_of_nothing_is_an_empty_blob(storage: Storage) -> None:
    assert storage.partial("upl_none").size() == 0
    assert storage.partial("upl_none").append(0).close() == 0
    assert storage.partial("upl_none").commit() == blob_of(b"")
    assert leftovers(storage) == []


def test_a_partial_takes_bytes_at_its_end_alone(storage: Storage) -> None:
    writer = storage.partial("upl_abc").append(0)
    writer.write(b"0123456789")
    assert writer.close() == 10
    for offset in (0, 9, 11):
        with pytest.raises(Conflict):
            storage.partial("upl_abc").append(offset)
    assert storage.partial("upl_abc").size() == 10


def test_a_slow_request_that_was_overtaken_changes_nothing(storage: Storage) -> None:
    """S3 has no locks: the slower one is turned away when it stores. On a disk the second one is, at once."""
    slow = storage.partial("upl_abc").append(0)
    slow.write(b"slow")
    try:
        quick = storage.partial("upl_abc").append(0)
    except Conflict:
        assert isinstance(storage, DiskStorage)
        assert slow.close() == 4
        return
    quick.write(b"quicker")
    assert quick.close() == 7
    with pytest.raises(Conflict):
        slow.close()
    late = storage.partial("upl_abc").append(7)
    late.write(b", too late")
    next_ = storage.partial("upl_abc").append(7)
    next_.write(b" and on")
    assert next_.close() == 14
    with pytest.raises(Conflict):
        late.close()
    assert storage.partial("upl_abc").commit() == blob_of(b"quicker and on")


def test_partials_are_forgotten(storage: Storage, grow_old: Callable[[], None]) -> None:
    for id in ("upl_a", "upl_b"):
        writer = storage.partial(id).append(0)
        writer.write(BIG)
        writer.close()
    grow_old()
    writer = storage.partial("upl_b").append(len(BIG))
    writer.write(b"more")
    writer.close()
    assert {id: age > 3600 for id, age in storage.partials()} == {"upl_a": True, "upl_b": False}
    for _ in range(2):
        storage.partial("upl_a").abort()
    assert [id for id, _ in storage.partials()] == ["upl_b"]
    assert storage.partial("upl_a").size() == 0


@pytest.mark.parametrize("id", ["upl_../x", "../upl_x", "upl_", "upl_a/b", "mdl_abc", "upl_ä"])
def test_an_upload_of_a_strange_name_is_not_found(storage: Storage, id: str) -> None:
    with pytest.raises(NotFound):
        storage.partial(id)


def test_what_dead_writers_left_is_swept(storage: Storage) -> None:
    kept = storage.put([b"kept"])
    writer = storage.writer()
    for piece in pieces(BIG, 1_000_000):
        writer.write(piece)
    assert leftovers(storage) != []
    assert storage.sweep(older_than_seconds=3600) == 0
    assert leftovers(storage) != []
    assert storage.sweep(older_than_seconds=0) > PART
    assert leftovers(storage) == []
    assert list(storage.digests()) == [kept.digest]


def test_a_check_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert list(storage.digests()) == leftovers(storage) == []


MEMORY = r"""
import re, sys
from pathlib import Path
from app.storage import DiskStorage, get_storage
storage = DiskStorage(Path(sys.argv[1])) if sys.argv[1] else get_storage()
if not sys.argv[1]: storage.bucket.part_bytes = 5 * 1024 * 1024
block = bytes(1024 * 1024)
def peak_after(blocks):
    blob = storage.put(block for _ in range(blocks))
    for _ in storage.open(blob.digest): pass
    partial = storage.partial("upl_x")
    writer = partial.append(0)
    for _ in range(blocks): writer.write(block)
    writer.close()
    partial.commit()
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
small = peak_after(30)
print(peak_after(90) - small)
"""


def test_memory_does_not_grow_with_the_blob(storage: Storage) -> None:
    root = str(storage.root) if isinstance(storage, DiskStorage) else ""
    grown = subprocess.run(
        [sys.executable, "-c", MEMORY, root],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert int(grown.stdout) < 30 * 1024 * 1024
