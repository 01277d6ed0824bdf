"""Fetching labelled data: once, checked, and with the command that brings it where it fails."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.accuracy.sources import NotFetched, Source, cache, fetched

CONTENT = b"1\t2.5\tA fine day."


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as a registry's client leaves it; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data-1.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("package/rated.txt", CONTENT), ("package/other.txt", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def source(package: Path, content: bytes = CONTENT) -> Source:
    digest = hashlib.sha256(content).hexdigest()
    return Source("data 1", ("cp", str(package), "."), "data-*.tgz", {"package/rated.txt": digest})


def test_wanted_files_are_fetched_once(package: Path) -> None:
    folder = fetched(source(package))
    assert folder.parent == cache()
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("rated.txt", CONTENT)]
    package.unlink()
    assert fetched(source(package)) == folder


def test_other_content_than_expected_is_refused(package: Path) -> None:
    with pytest.raises(NotFetched, match=r"holds another package/rated\.txt"):
        fetched(source(package, b"something else"))
    assert list(cache().iterdir()) == []


def test_what_cannot_be_fetched_names_its_command(package: Path) -> None:
    package.unlink()
    with pytest.raises(NotFetched, match=f"`cp {package} .`") as refused:
        fetched(source(package))
    assert "No such file" in str(refused.value)
    missing = Source("data 1", ("no-such-client",), "*", {})
    with pytest.raises(NotFetched, match="no-such-client"):
        fetched(missing)
