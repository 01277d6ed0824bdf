"""Trees: the text that names every file of a directory by path and digest, in the form of `sha256sum`."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

_FOLDER = (
    getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
)  # O_PATH: a folder that may be entered, not listed


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: its POSIX path inside the tree, and the digest of its bytes."""

    path: str
    digest: str


def tree_text(entries: Iterable[TreeFile]) -> str:
    """The text of a tree: `sha256sum`'s lines, sorted by path."""
    return "".join(f"{entry.digest}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path))


def parse_tree(text: str) -> list[TreeFile]:
    """The files that a tree's text names.

    Raises:
        ValueError: the text is no tree's, or a path leaves the tree.
    """
    entries = []
    for line in text.splitlines():
        digest, separator, path = line.partition("  ")
        pure = PurePosixPath(path)
        if not separator or len(digest) != 64 or pure.is_absolute() or ".." in pure.parts:
            raise ValueError("that is not a tree")
        entries.append(TreeFile(path, digest))
    return entries


def regular_files(folder: Path) -> Iterator[Path]:
    """Every file below a directory, sorted.

    Raises:
        ValueError: it holds something that is neither file nor directory, a line break in a name, or too deep a nest.
    """
    try:
        found = sorted(folder.rglob("*"))
    except RecursionError as error:
        raise ValueError("its folders are nested too deeply") from error
    for path in found:
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path.relative_to(folder)} is neither a file nor a directory")
        if path.name.splitlines() != [path.name]:
            raise ValueError(f"{path.name!r} would break the lines of the tree's text")
        if path.is_file():
            yield path


def open_regular(path: Path) -> BufferedReader:
    """A regular file for reading, by way of no link: whoever owns the folder may swap what is in it meanwhile.

    Raises:
        ValueError: something else is at that path, or a link on the way.
    """
    handle = os.open("/", _FOLDER)
    try:
        *folders, name = path.absolute().parts[1:]
        for folder in folders:
            outer = handle
            handle = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            os.close(outer)
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be opened as a file: {error.strerror}") from error
    finally:
        os.close(handle)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(f"{path.name} is not a regular file")
    return os.fdopen(file, "rb")
