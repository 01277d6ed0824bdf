"""The file system that a child sees: a new root that holds what `paths.py` names, read-only but for its own folder."""

import contextlib
import os
import struct
from pathlib import Path

from workers.sandbox.libc import MACHINE, MOUNT_SETATTR, PIVOT_ROOT, call, system_call
from workers.sandbox.paths import VIEW, WORK, Paths

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _SLAVE = 0x1, 0x2, 0x4, 0x8, 0x1000, 0x4000, 1 << 19
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_DETACH = 2

_PROC_SETTINGS = (
    "sys",
    "irq",
    "bus",
    "fs",
    "acpi",
    "scsi",
    "sysrq-trigger",
)  # whoever is root could write there
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


def enter(paths: Paths, shared_memory_bytes: int) -> Paths | None:
    """Make the view this process's root: the paths as they are in it, None where the kernel does not let us.

    In a mount namespace of its own alone. `shared_memory_bytes`: the size of /dev/shm.
    """
    view = paths.folder / VIEW
    before = Path.cwd()
    try:
        call("mount", None, "/", None, _REC | _SLAVE, None)
        call("mount", "tmpfs", view, "tmpfs", _NOSUID | _NODEV, b"mode=755,size=1m")
    except OSError:
        return None
    try:
        proc_is_own = _build(view, paths, shared_memory_bytes)
        os.chdir(view)
        system_call(PIVOT_ROOT.get(MACHINE), ".", ".")
    except OSError:
        os.chdir(before)
        with contextlib.suppress(OSError):
            call("umount2", view, _DETACH)
        return None
    call("umount2", ".", _DETACH)  # the old root, which lies over the new one
    _close(Path("/"), _ATTR_RDONLY, recursive=False)
    os.chdir(before)
    return paths.in_view(proc_is_own=proc_is_own)


def _build(view: Path, paths: Paths, shared_memory_bytes: int) -> bool:
    """Lay everything below `view`; whether its /proc shows this PID namespace alone."""
    shown: list[Path] = []
    for path in paths.readable:
        if not any(path.is_relative_to(above) for above in shown):
            _show(view, path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
            shown += [] if path.is_symlink() else [path]
    _show(view, paths.folder / WORK, _ATTR_NOSUID | _ATTR_NODEV)
    for device in paths.devices:
        _show(
            view, device, _ATTR_RDONLY | _ATTR_NOSUID
        )  # devices are written all the same; their modes are not
    for name, target in _DEVICE_LINKS.items():
        _inside(view, Path("/dev") / name).symlink_to(target)
    shared = _inside(view, Path("/dev/shm"))
    shared.mkdir()
    call("mount", "tmpfs", shared, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={shared_memory_bytes}")
    return _show_proc(view)


def _show_proc(view: Path) -> bool:
    """A /proc of this PID namespace; the system's, which container runtimes insist on, where that is refused."""
    proc = view / "proc"
    proc.mkdir()
    try:
        call("mount", "proc", proc, "proc", _NOSUID | _NODEV | _NOEXEC, None)
        own = True
    except OSError:
        call("mount", "/proc", proc, None, _BIND | _REC, None)
        own = False
    for name in _PROC_SETTINGS:
        if (setting := proc / name).exists():
            call("mount", setting, setting, None, _BIND | _REC, None)
            _close(setting, _ATTR_RDONLY)
    return own


def _show(view: Path, path: Path, attributes: int) -> None:
    """Bind a folder or file to its place below the view; a link stays a link."""
    place = _inside(view, path)
    if path.is_symlink() and path.parent == Path("/"):
        place.symlink_to(path.readlink())
        return
    if path.is_dir():
        place.mkdir(exist_ok=True)
    elif not place.exists():
        place.touch()
    call("mount", path, place, None, _BIND | _REC, None)
    _close(place, attributes)


def _inside(view: Path, path: Path) -> Path:
    """The place of an absolute path below the view; the folders above it exist afterwards."""
    place = view / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _close(place: Path, attributes: int, *, recursive: bool = True) -> None:
    """Restrict a mount, and those below it."""
    wanted = struct.pack("4Q", attributes, 0, 0, 0)
    system_call(MOUNT_SETATTR, _AT_FDCWD, place, _AT_RECURSIVE if recursive else 0, wanted, len(wanted))
