"""Small real disks: file systems in memory that are full when they are full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """`folder` on a file system of its own of so many MiB; skips the test where this user may not mount one."""
    folder.mkdir(parents=True)
    options = f"size={mib}m,mode=0777"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path, but: int = 0) -> Iterator[None]:
    """Nothing fits on the folder's disk any more, but for so many bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB // 16))
        except OSError:
            pass
        os.ftruncate(file.fileno(), max(0, file.tell() - but))
    try:
        yield
    finally:
        filler.unlink()
