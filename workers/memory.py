"""What builds remember for later builds of the same project, on whatever worker: kept beside the steps, under its whole cause.

A project's own: what a child wrote is never given to the child of another project. It is laid out read-only, replaced as a
whole, and goes with the project's step cache when that has no room.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from app.catalog.recipe import step_key
from workers.steps import Supervisor

FILE = "content"


class Memory(Protocol):
    """A place for bytes by name and cause. `cause` holds everything that makes them of use, as JSON can say it."""

    def recall(self, name: str, cause: Mapping[str, Any]) -> bytes | None:
        """What was remembered last; None where nothing was, or it is gone."""
        ...

    def remember(self, name: str, cause: Mapping[str, Any], content: bytes) -> None:
        """Keep this instead of what was there."""
        ...


class StepMemory:
    """A memory in the project's step cache, through the supervisor. `scratch`: the attempt's own folder."""

    def __init__(self, supervisor: Supervisor, scratch: Path):
        self._supervisor = supervisor
        self._folder = scratch / "memory"

    def recall(self, name: str, cause: Mapping[str, Any]) -> bytes | None:
        """See `Memory.recall`."""
        found = self._supervisor.ask("lookup", key=_key(name, cause))
        file = Path(found["root"]) / FILE if found["found"] else None
        return file.read_bytes() if file is not None and file.is_file() else None

    def remember(self, name: str, cause: Mapping[str, Any], content: bytes) -> None:
        """See `Memory.remember`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        root = self._folder / f"{len(list(self._folder.iterdir())):02d}-{name}"
        root.mkdir()
        (root / FILE).write_bytes(content)
        self._supervisor.ask("store", key=_key(name, cause), name=name, root=str(root), facts={}, seconds=0.0)


class KeptFolder:
    """A folder that belongs to a step, in the same cache: the step half done, or what it left besides. `step`: its key."""

    def __init__(self, supervisor: Supervisor, name: str, step: str):
        self._supervisor = supervisor
        self._name = name
        self._kept = False
        self._key = step_key({"kept": name, "step": step})

    def last(self) -> Path | None:
        """See `context.Checkpoint.last`."""
        found = self._supervisor.ask("lookup", key=self._key)
        self._kept = self._kept or found["found"]
        return Path(found["root"]) if found["found"] else None

    def keep(self, folder: Path) -> None:
        """See `context.Checkpoint.keep`."""
        self._kept = True
        self._supervisor.ask("store", key=self._key, name=self._name, root=str(folder), facts={}, seconds=0.0)

    def drop(self) -> None:
        """It is of no use any more: forget what was kept, if this attempt knows of something."""
        if self._kept:
            self._supervisor.ask("forget", key=self._key)


def _key(name: str, cause: Mapping[str, Any]) -> str:
    return step_key({"memory": name, **cause})
