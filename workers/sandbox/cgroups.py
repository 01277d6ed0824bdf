"""Control groups, both versions: a group for each child, and what the groups above this process say (cgroups(7))."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "burnish-"
REMOVE_SECONDS = 5.0
# the share of a limit that counts as all: the kernel charges in batches, and counts failures nowhere that can be relied on
_REACHED = 0.95


@dataclass(frozen=True)
class _Kind:
    """A version: the names of its files."""

    name: str
    memory: str
    swap: str
    events: str


_V1 = _Kind("cgroup v1", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control")
_V2 = _Kind("cgroup v2", "memory.max", "memory.swap.max", "memory.events")


class Group:
    """The groups of one child: it enters them first of all, and nothing that it starts can leave them."""

    def __init__(self, name: str, memory_bytes: int, processes: int, root: Path = ROOT):
        remove_abandoned(root)
        self.memory: str | None = None
        self.processes: str | None = None
        self._memory_bytes = memory_bytes
        self._folders: dict[Path, _Kind] = {}
        name = f"{PREFIX}{os.getpid()}-{name}"
        for controller in ("memory", "pids"):
            for parent, kind in _parents(controller, root):
                if self._make(parent / name, controller, kind, memory_bytes, processes):
                    break

    @property
    def folders(self) -> list[Path]:
        """The groups to enter."""
        return list(self._folders)

    def pids(self) -> set[int]:
        """Every process in it."""
        found: set[int] = set()
        for folder in self._folders:
            found |= set(_numbers([folder / "cgroup.procs"], whole=True))
        return found

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process in it for want of memory."""
        return any(_events(folder / kind.events).get("oom_kill", 0) for folder, kind in self._folders.items())

    def reached_its_limit(self) -> bool:
        """Whether its own limit on memory was in the way, rather than that of the system."""
        peaks = _numbers(folder / "memory.max_usage_in_bytes" for folder in self._folders)  # v1
        return any(
            _events(folder / kind.events).get("oom", 0) for folder, kind in self._folders.items()
        ) or any(peak >= self._memory_bytes * _REACHED for peak in peaks)

    def remove(self) -> None:
        """Remove it, once its last process is gone; what stays after some seconds is removed by the next child."""
        end = time.monotonic() + REMOVE_SECONDS
        for folder in self._folders:
            while folder.exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                if time.monotonic() > end:
                    break
                time.sleep(0.02)

    def _make(self, folder: Path, controller: str, kind: _Kind, memory_bytes: int, processes: int) -> bool:
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            return False
        try:
            if controller == "memory":
                (folder / kind.memory).write_text(str(memory_bytes))
                with contextlib.suppress(OSError):  # only where swap is accounted for
                    (folder / kind.swap).write_text("0" if kind is _V2 else str(memory_bytes))
                self.memory = kind.name
            else:
                (folder / "pids.max").write_text(str(processes))
                self.processes = kind.name
        except OSError:
            if folder not in self._folders:
                folder.rmdir()
            return False
        self._folders[folder] = kind
        return True


def enter(folders: Iterable[Path]) -> None:
    """Enter these groups for good.

    Raises:
        OSError: one is gone, or the kernel refuses.
    """
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def remove_abandoned(root: Path = ROOT) -> None:
    """Remove groups of workers that were killed: empty, and of a process that is no more."""
    for folder in {parent for controller in ("memory", "pids") for parent, _ in _parents(controller, root)}:
        for group in folder.glob(f"{PREFIX}[0-9]*-*"):
            pid = group.name.removeprefix(PREFIX).partition("-")[0]
            if not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    group.rmdir()


def cores() -> float | None:
    """The cores that this cgroup may use at once by its quota, None where there is none (v2: cpu.max; v1: cfs_quota)."""
    quotas = []
    for file in _files_above("cpu.max", "cpu"):
        if file.is_file():
            quota, period = file.read_text().split()
            quotas += [int(quota) / int(period)] if quota.isdigit() else []
    for file in _files_above("cpu.cfs_quota_us", "cpu"):
        if file.is_file() and (quota := file.read_text().strip()).isdigit():
            quotas.append(int(quota) / int(file.with_name("cpu.cfs_period_us").read_text()))
    return min(quotas, default=None)


def memory_bytes() -> list[int]:
    """The limits on memory of this cgroup and of those above it."""
    return _numbers([*_files_above("memory.max"), *_files_above("memory.limit_in_bytes")])


def oom_kills() -> int:
    """How often the kernel killed for want of memory so far, on this machine and in this cgroup."""
    counters = [Path("/proc/vmstat"), *_files_above("memory.events"), *_files_above("memory.oom_control")]
    return sum(_events(file).get("oom_kill", 0) for file in counters)


def _own(controller: str, root: Path) -> Iterator[tuple[Path, _Kind]]:
    """This process's group in v1's hierarchy of a controller, and in v2's."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            yield root / controller / path.lstrip("/"), _V1
        elif controllers == "":
            yield root / path.lstrip("/"), _V2


def _parents(controller: str, root: Path) -> Iterator[tuple[Path, _Kind]]:
    """Where a child's group can be made.

    v1: below this process's own. v2: where a group hands the controller on; as a group with processes cannot, that is the
    one above, if the worker was put into a group of its own there (systemd: Delegate= and DelegateSubgroup=).
    """
    for own, kind in _own(controller, root):
        if kind is _V1:
            yield own if own.is_dir() else root / controller, kind
            continue
        for folder in (own, own.parent):
            with contextlib.suppress(OSError):
                if controller in (folder / "cgroup.subtree_control").read_text().split():
                    yield folder, kind


def _files_above(name: str, controller: str = "memory") -> list[Path]:
    """A file of this process's group and of every one above it, in both hierarchies."""
    files = []
    for own, kind in _own(controller, ROOT):
        top = ROOT / controller if kind is _V1 else ROOT
        files += [folder / name for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return files


def _events(file: Path) -> dict[str, int]:
    """A file of `name number` lines; {} where there is none."""
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2}
    except (OSError, ValueError):
        return {}


def _numbers(files: Iterable[Path], *, whole: bool = False) -> list[int]:
    """The numbers in files, one a file, or one a line of `whole` ones."""
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            words = file.read_text().split()
            found += [int(word) for word in (words if whole else words[:1]) if word.isdigit()]
    return found
