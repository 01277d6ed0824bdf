"""What a child may see: the interpreter, installed libraries, this program, the devices, and its own folder."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

WORK = "work"  # below an attempt's folder: all that its child may write
VIEW = "view"  # below an attempt's folder: where its mount namespace is built

_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/opt/nvidia", "/opt/intel", "/opt/rocm",
    "/run/opengl-driver", "/sys",
)  # fmt: skip
_ETC = (
    "OpenCL", "alternatives", "debian_version", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "ld.so.preload", "localtime", "lsb-release", "mime.types", "nsswitch.conf", "nvidia", "os-release", "passwd",
    "redhat-release", "resolv.conf", "timezone", "vulkan",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "dri", "kfd")
_DEVICE_PATTERNS = ("nvidia*", "accel*")


@dataclass(frozen=True)
class Paths:
    """Every path of these that exists; a folder stands for all below it."""

    folder: Path  # of the attempt
    readable: tuple[Path, ...]
    devices: tuple[Path, ...]
    writable: tuple[Path, ...]
    listable: tuple[Path, ...] = ()
    proc: tuple[Path, ...] = (Path("/proc"),)
    proc_is_own: bool = False  # whether it shows this PID namespace alone
    proc_writable: bool = False  # as for the peak of memory in /proc/self/clear_refs

    def in_view(self, *, proc_is_own: bool) -> "Paths":
        """The same after the mount namespace was entered: it has a /dev/shm of its own, and maybe a /proc."""
        return replace(
            self,
            listable=(Path("/"),),
            writable=(*self.writable, Path("/dev/shm")),
            proc_is_own=proc_is_own,
            proc_writable=proc_is_own or self.proc_writable,
        )


def of_attempt(folder: Path) -> Paths:
    """What the child of an attempt may use. Its folder is read, below `work` it is written.

    As root, /proc holds the system's settings: nothing there is written unless the mount namespace made them read-only.
    """
    readable = {folder, *map(Path, _SYSTEM), *(Path("/etc") / name for name in _ETC)}
    readable |= {path for path in _program() if not folder.is_relative_to(path)}
    return Paths(
        folder=folder,
        readable=tuple(sorted(path for path in readable if path.exists())),
        devices=tuple(sorted(_devices())),
        writable=(folder / WORK,),
        proc_writable=os.geteuid() != 0,
    )


def _program() -> Iterator[Path]:
    """The interpreter, its environment, what it imports from, and the program that it runs."""
    import app
    import workers

    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        yield from (Path(prefix), Path(prefix).resolve())
    yield from _hops(Path(sys.executable))
    if (compiler := Path(os.environ.get("CXX", ""))).is_absolute():  # its headers and tools lie beside it
        yield compiler.resolve().parent.parent
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":") + os.environ.get("LD_PRELOAD", "").split(":")
    for entry in [*sys.path, *libraries]:
        if entry and Path(entry).is_absolute():
            yield from (Path(entry), Path(entry).resolve())
    main = getattr(sys.modules["__main__"], "__file__", None)
    for file in filter(None, (app.__file__, workers.__file__, main)):
        yield Path(file).resolve().parent


def _hops(link: Path) -> Iterator[Path]:
    """A file, and every file that it is a link to on the way to the last."""
    for _ in range(20):
        yield link
        if not link.is_symlink():
            return
        link = Path(os.path.normpath(link.parent / link.readlink()))


def _devices() -> Iterator[Path]:
    root = Path("/dev")
    for name in _DEVICES:
        if (root / name).exists():
            yield root / name
    for pattern in _DEVICE_PATTERNS:
        yield from root.glob(pattern)
