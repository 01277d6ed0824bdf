"""The first thing that a child does, before it imports anything that reads what a user uploaded."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from workers.sandbox import cgroups, landlock, limits, namespaces, paths, privileges, seccomp, view
from workers.sandbox.report import Report, joined, lacking

SHARED_MEMORY_SHARE = 2  # of the memory that a child may hold, a half may lie in /dev/shm


class Unsafe(Exception):
    """A wall is missing that was insisted on."""


@dataclass(frozen=True)
class Confinement:
    """What a supervisor puts behind the command of a child."""

    parent: int
    file_bytes: int
    memory_bytes: int
    processes: int
    cgroups: tuple[Path, ...]
    memory_by: str | None
    processes_by: str | None
    required: bool
    without: frozenset[str]
    assignment: Path
    node: int | None = None  # its number among several that train together

    @property
    def folder(self) -> Path:
        """The attempt's folder."""
        return self.assignment.parent

    def arguments(self) -> list[str]:
        """As a command line has it."""
        words = [f"--parent={self.parent}", f"--file-bytes={self.file_bytes}"]
        words += [f"--memory-bytes={self.memory_bytes}", f"--processes={self.processes}"]
        words += [f"--cgroup={folder}" for folder in self.cgroups]
        words += [f"--memory-by={self.memory_by}"] if self.memory_by else []
        words += [f"--processes-by={self.processes_by}"] if self.processes_by else []
        words += ["--require-sandbox"] if self.required else []
        words += [f"--without={wall}" for wall in sorted(self.without)]
        words += [] if self.node is None else [f"--node={self.node}"]
        return [*words, str(self.assignment)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `Confinement.arguments` writes."""
    parser.add_argument("--parent", type=int, required=True, help="the process whose death is this one's")
    parser.add_argument("--file-bytes", type=int, required=True, help="the largest file that may be written")
    parser.add_argument("--memory-bytes", type=int, required=True, help="the most memory that may be held")
    parser.add_argument("--processes", type=int, required=True, help="the most processes and threads")
    parser.add_argument("--cgroup", type=Path, action="append", default=[], help="a control group to enter")
    parser.add_argument("--memory-by", help="what limits memory, where not the watchdog")
    parser.add_argument("--processes-by", help="what limits processes, where not the watchdog")
    parser.add_argument("--require-sandbox", action="store_true", help="end where a wall is missing")
    parser.add_argument(
        "--without", action="append", default=[], choices=WALLS, help="as if the kernel had no such thing"
    )
    parser.add_argument("--node", type=int, help="its number among several that train together")
    parser.add_argument("assignment", type=Path)


def given(arguments: argparse.Namespace) -> Confinement:
    """What was parsed."""
    return Confinement(
        parent=arguments.parent,
        file_bytes=arguments.file_bytes,
        memory_bytes=arguments.memory_bytes,
        processes=arguments.processes,
        cgroups=tuple(arguments.cgroup),
        memory_by=arguments.memory_by,
        processes_by=arguments.processes_by,
        required=arguments.require_sandbox,
        without=frozenset(arguments.without),
        assignment=arguments.assignment,
        node=arguments.node,
    )


WALLS = ("namespaces", "landlock", "seccomp")


def enter(asked: Confinement) -> Report:
    """Put up every wall that this kernel has; returns inside, in another process than the one that called.

    Raises:
        Unsafe: the network or the files stay open, and `required` forbids that.
        OSError: a control group could not be entered.
    """
    cgroups.enter(asked.cgroups)
    limits.offer_to_oom_killer()
    spaces = frozenset[str]() if "namespaces" in asked.without else namespaces.leave()
    if asked.node is not None and namespaces.NETWORK in spaces:
        namespaces.number(asked.node)
    namespaces.die_with_parent(asked.parent)  # after the namespaces: new credentials clear the death signal
    limits.limit_files(asked.file_bytes)
    namespaces.go_inside(spaces)
    allowed = paths.of_attempt(asked.folder)
    seen = view.enter(allowed, asked.memory_bytes // SHARED_MEMORY_SHARE) if "mount" in spaces else None
    few = asked.processes_by is None and limits.limit_processes(asked.processes)
    dropped = privileges.drop()
    network = namespaces.NETWORK in spaces
    ruled = (
        landlock.Landlock(0)
        if "landlock" in asked.without or not dropped
        else landlock.restrict(seen or allowed, without_network=not network)
    )
    families = (*(seccomp.NETWORK if network else ()), *(seccomp.LOCAL if seen else ()))
    filtered = (
        "seccomp" not in asked.without
        and dropped
        and seccomp.restrict(families, keep_metadata=seen is None and ruled.holds_files)
    )
    report = Report(
        network="namespace" if network else "seccomp" if filtered else None,
        files=joined("mount namespace" if seen else None, "landlock" if ruled.holds_files else None),
        neighbours=joined(
            "pid namespace" if seen and seen.proc_is_own else None,
            "landlock" if ruled.holds_signals else None,
        ),
        processes=asked.processes_by or ("rlimit" if few else Report.processes),
        memory=asked.memory_by or Report.memory,
        privileges="dropped" if dropped else None,
        system_calls="seccomp" if filtered else None,
    )
    if asked.required and (missing := lacking(report.as_dict())):
        raise Unsafe(f"no wall here for: {', '.join(missing)}")
    return report
