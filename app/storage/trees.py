"""Trees: the text that names every file of a directory by path and digest, in the form of `sha256sum`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


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
        ValueError: it holds something that is neither file nor directory, or a line break in a name.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path.relative_to(folder)} is neither a file nor a directory")
        if path.name.splitlines() != [path.name]:
            raise ValueError(f"{path.name!r} would break the lines of the tree's text")
        if path.is_file():
            yield path
