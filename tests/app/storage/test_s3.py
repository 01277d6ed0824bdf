"""What the bucket alone has: a cache on the worker's disk, versions, connections that break, other people's errors."""

import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.config import get_settings
from app.errors import BurnishError, DiskFull, Internal, NotFound, Unavailable
from app.storage import bucket as bucket_module
from app.storage import get_storage
from app.storage import s3 as s3_module
from app.storage.bucket import MIB, Bucket
from app.storage.cache import Cache
from app.storage.s3 import S3Storage
from tests.app.cli.scripted_server import Answer, say, scripted
from tests.app.storage.conftest import PART, leftovers
from tests.services import free_port

REFUSED = "<Error><Code>{}</Code><Message>no</Message></Error>"


@pytest.fixture
def storage(s3_storage: S3Storage) -> S3Storage:
    return s3_storage


def on(storage: S3Storage, event: str, hook: Callable[..., None]) -> None:
    """Call a hook around requests: `before-call.s3.GetObject`, for one."""

    def call(**about: Any) -> None:  # what a hook returns would stand for the answer
        hook(**about)

    storage.bucket.client.meta.events.register(event, call)


def elsewhere(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> S3Storage:
    """A store at another address, which is asked once."""
    monkeypatch.setattr(s3_module, "ATTEMPTS", 1)
    monkeypatch.setenv("BURNISH_S3_ENDPOINT", endpoint)
    get_settings.cache_clear()
    return S3Storage.from_settings(get_settings())


# --- the cache


def test_a_file_is_fetched_once_and_linked_out(storage: S3Storage, tmp_path: Path) -> None:
    fetched: list[int] = []
    on(storage, "before-call.s3.GetObject", lambda **_: fetched.append(1))
    digest = storage.put([b"a model"]).digest
    laid = [storage.materialize_file(digest, tmp_path / name) for name in "abc"]
    assert [path.read_bytes() for path in laid] == [b"a model"] * 3
    assert len({path.stat().st_ino for path in laid}) == 1
    assert laid[0].stat().st_mode & 0o777 == 0o444
    assert len(fetched) == 1


def test_a_damaged_file_of_the_cache_is_fetched_again(storage: S3Storage, tmp_path: Path) -> None:
    digest = storage.put([b"a model"]).digest
    storage.materialize_file(digest, tmp_path / "first").unlink()
    kept = tmp_path / "cache" / digest
    kept.chmod(0o600)
    kept.write_bytes(b"another")
    assert storage.materialize_file(digest, tmp_path / "second").read_bytes() == b"a model"
    assert kept.read_bytes() == b"a model"


def test_the_cache_is_bounded_and_the_longest_unused_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 25)
    blobs = {}
    for name in "abc":
        file = tmp_path / name
        file.write_bytes(name.encode() * 10)
        blobs[name] = hashlib.sha256(name.encode() * 10).hexdigest()
    cache.keep(blobs["a"], tmp_path / "a")
    cache.keep(blobs["b"], tmp_path / "b")
    assert cache.take(blobs["a"], tmp_path / "a again")
    cache.keep(blobs["c"], tmp_path / "c")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {blobs["a"], blobs["c"]}
    assert not cache.take(blobs["b"], tmp_path / "b again")
    (tmp_path / "large").write_bytes(b"x" * 26)
    cache.keep("0" * 64, tmp_path / "large")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_keep_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "file").write_bytes(b"x")
    Cache(tmp_path / "cache", 25).keep("0" * 64, tmp_path / "file")


def test_processes_share_a_cache_that_is_too_small(storage: S3Storage, tmp_path: Path) -> None:
    blobs = [storage.put([bytes([number]) * 100_000]) for number in range(6)]
    caches = [Cache(tmp_path / "shared", 250_000) for _ in range(4)]
    stores = [S3Storage(storage.bucket, cache) for cache in caches]

    def lay(number: int) -> bool:
        target = tmp_path / f"laid-{number}"
        stores[number % 4].materialize_file(blobs[number % 6].digest, target)
        return target.read_bytes() == bytes([number % 6]) * 100_000

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lay, range(48)))
    assert sum(path.stat().st_size for path in (tmp_path / "shared").iterdir()) <= 4 * 250_000


# --- the bucket


def test_in_a_versioned_bucket_nothing_that_is_stored_meanwhile_is_lost(storage: S3Storage) -> None:
    client, name = storage.bucket.client, storage.bucket.name
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    other = S3Storage.from_settings(get_settings())
    blob = storage.put([b"wanted again"])
    asked: list[int] = []

    def stored_meanwhile(parsed: dict[str, Any], **_: Any) -> None:
        asked.append(1)
        if len(asked) == 1:
            parsed["LastModified"] -= timedelta(hours=2)
            other.put([b"wanted again"])

    on(storage, "after-call.s3.HeadObject", stored_meanwhile)
    assert storage.delete(blob.digest, older_than_seconds=3600) == blob.size_bytes
    assert b"".join(storage.open(blob.digest)) == b"wanted again"
    versions = client.list_object_versions(Bucket=name)
    assert len(versions["Versions"]) == 1
    assert "DeleteMarkers" not in versions
    assert storage.delete(blob.digest) == blob.size_bytes
    assert not storage.exists(blob.digest)


def test_what_is_too_large_to_copy_at_once_is_copied_in_parts(
    storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "COPY_BYTES", 4 * PART)
    copied: list[int] = []
    on(storage, "before-call.s3.UploadPartCopy", lambda **_: copied.append(1))
    data = bytes(range(256)) * (4 * PART // 256) + b"and a little more"
    digest = storage.put([data]).digest
    (tmp_path / "file").write_bytes(data)
    assert storage.put_file(tmp_path / "file").digest == digest
    assert storage.materialize_file(digest, tmp_path / "laid").read_bytes() == data
    assert len(copied) == 2 * 5
    assert leftovers(storage) == []


def test_a_file_that_changes_while_it_is_stored_is_refused(storage: S3Storage, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PART + MIB))
    on(storage, "before-call.s3.CreateMultipartUpload", lambda **_: path.write_bytes(b"x" * (PART + MIB)))
    with pytest.raises(ValueError, match="changed"):
        storage.put_file(path)
    assert list(storage.digests()) == leftovers(storage) == []


def test_a_damaged_object_is_not_laid_out(storage: S3Storage, tmp_path: Path) -> None:
    digest = storage.put([b"as it was"]).digest
    storage.bucket.put(f"blobs/{digest}", b"as it is now")
    with pytest.raises(Internal, match="damaged"):
        storage.materialize_file(digest, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_two_installations_share_a_bucket_under_prefixes(storage: S3Storage) -> None:
    theirs = S3Storage(Bucket(storage.bucket.client, storage.bucket.name, "another/"), storage._cache)
    digest = theirs.put([b"theirs"]).digest
    theirs.partial("upl_x").append(0).close()
    assert not storage.exists(digest)
    assert list(storage.digests()) == list(storage.partials()) == []
    assert storage.sweep(0) == 0
    assert theirs.exists(digest)


# --- what goes wrong


def test_reading_goes_on_where_the_connection_broke(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (
        say(200, b"01234", length=10),
        say(206, b"56", length=5, Content_Range="bytes 5-9/10"),
        say(206, b"789", Content_Range="bytes 7-9/10"),
    )
    with scripted(*answers) as script:
        storage = elsewhere(monkeypatch, script.url)
        assert b"".join(storage.open("0" * 64)) == b"0123456789"
    asked = [request["headers"].get("Range") for request in script.requests]
    assert asked == [None, "bytes=5-", "bytes=7-"]


def test_a_connection_that_breaks_every_time_is_given_up(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(say(200, b"", length=10)) as script:
        storage = elsewhere(monkeypatch, script.url)
        with pytest.raises(Unavailable):
            b"".join(storage.open("0" * 64))
        assert len(script.requests) == 1 + bucket_module.BREAKS


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (say(507, REFUSED.format("XMinioStorageFull").encode()), DiskFull, "no space"),
        (say(507, b""), DiskFull, "no space"),
        (say(403, REFUSED.format("AccessDenied").encode()), Unavailable, "AccessDenied"),
        (say(404, REFUSED.format("NoSuchBucket").encode()), Unavailable, "NoSuchBucket"),
        (say(503, REFUSED.format("SlowDown").encode()), Unavailable, "SlowDown"),
    ],
    ids=["full", "full, in a word", "denied", "no bucket", "busy"],
)
def test_refusals_are_errors_of_ours(
    s3: str, monkeypatch: pytest.MonkeyPatch, answer: Answer, error: type[BurnishError], text: str
) -> None:
    with scripted(answer) as script:
        storage = elsewhere(monkeypatch, script.url)
        for ask in (lambda: storage.put([b"x"]), storage.check):
            with pytest.raises(error, match=text):
                ask()


def test_a_full_bucket_is_said_in_the_middle_of_an_upload(storage: S3Storage) -> None:
    def full(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
        http_response.status_code = 507
        parsed["Error"] = {"Code": "XMinioStorageFull", "Message": "no"}

    on(storage, "after-call.s3.UploadPart", full)
    with pytest.raises(DiskFull):
        storage.put(bytes(MIB) for _ in range(12))
    assert list(storage.digests()) == leftovers(storage) == []


def test_nobody_there(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage = elsewhere(monkeypatch, f"http://127.0.0.1:{free_port()}")
    for ask in (
        storage.check,
        lambda: storage.exists("0" * 64),
        lambda: storage.delete("0" * 64),
        lambda: storage.put([b"x"]),
        lambda: list(storage.digests()),
        lambda: storage.partial("upl_x").size(),
        lambda: storage.materialize_file("0" * 64, tmp_path / "file"),
    ):
        with pytest.raises(Unavailable) as caught:
            ask()
        assert "127.0.0.1" not in str(caught.value)
    assert not (tmp_path / "file").exists()


def test_a_missing_boto3_is_said_with_what_to_do(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "app.storage.s3")
    get_storage.cache_clear()
    with pytest.raises(RuntimeError, match=r"pip install 'burnish\[s3\]'"):
        get_storage()


@pytest.mark.parametrize("url", ["http://bucket", "s3://", "s3://UPPER/x", "bucket", "s3://a b"])
def test_strange_addresses_are_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BURNISH_STORAGE_URL", url)
    get_settings.cache_clear()
    with pytest.raises(ValueError, match="storage_url"):
        get_settings()
    monkeypatch.undo()
    get_settings.cache_clear()


def test_links_are_off_unless_asked_for(storage: S3Storage, tmp_path: Path) -> None:
    digest = storage.put([b"x"]).digest
    assert storage.link(digest, "application/zip", "attachment") is None
    with pytest.raises(NotFound):
        storage.materialize_file("1" * 64, tmp_path / "file")
