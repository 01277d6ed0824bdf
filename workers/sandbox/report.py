"""What holds a child on this machine, in words: each wall with what it is made of, None where there is none."""

from dataclasses import asdict, dataclass

ESSENTIAL = ("network", "files")  # what `BURNISH_REQUIRE_SANDBOX` insists on

_MISSING = {
    "network": "a child reaches the network: forbid it around the worker (docs/security.md)",
    "files": "a child reads and writes what the worker's user can, the data directory too",
    "neighbours": "a child sees, signals and traces other processes of the worker's user",
    "processes": "only a watchdog counts a child's processes",
    "memory": "only a watchdog counts a child's memory",
    "privileges": "a child keeps the worker's privileges",
    "system_calls": "a child may use every system call",
}
_WATCHED = "watchdog"


@dataclass(frozen=True)
class Report:
    """`watchdog`: the supervisor looks every second and kills."""

    network: str | None = None
    files: str | None = None
    neighbours: str | None = None
    processes: str | None = _WATCHED
    memory: str | None = _WATCHED
    disk: str | None = _WATCHED
    privileges: str | None = None
    system_calls: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """As JSON has it."""
        return asdict(self)


def lacking(sandbox: dict[str, str | None]) -> list[str]:
    """The essential walls that are missing."""
    return [name for name in ESSENTIAL if sandbox.get(name) is None]


def warnings(sandbox: dict[str, str | None]) -> dict[str, str]:
    """What is missing, by wall, and what that means: for the worker's log."""
    return {
        name: text
        for name, text in _MISSING.items()
        if sandbox.get(name) is None or (name in ("processes", "memory") and sandbox[name] == _WATCHED)
    }


def joined(*parts: str | None) -> str | None:
    """`a and b` of what there is, None where there is nothing."""
    return " and ".join(part for part in parts if part) or None
