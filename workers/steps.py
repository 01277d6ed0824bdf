"""Steps of an attempt: stored already? take it : run it, store it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from app.catalog.recipe import step_key

T = TypeVar("T")


class Supervisor(Protocol):
    """The supervisor, as a child sees it (`protocol.SupervisorPipe`)."""

    def tell(self, type_: str, **fields: Any) -> None: ...
    def ask(self, type_: str, **fields: Any) -> dict[str, Any]: ...


@dataclass(frozen=True)
class StepOutcome:
    """What a stored step left: its files under `root`, their tree's digest, and what it said of them."""

    name: str
    key: str
    root: Path
    digest: str
    facts: dict[str, Any]
    cached: bool
    seconds: float


class Steps:
    """The steps of one attempt, in order. Each is told to the supervisor as it begins and ends."""

    def __init__(self, supervisor: Supervisor, scratch: Path):
        self._supervisor = supervisor
        self._folder = scratch / "steps"
        self._count = 0
        self.outcomes: list[StepOutcome] = []

    def stored(
        self, name: str, cause: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> StepOutcome:
        """One step whose files are kept under the key of its whole cause.

        `work` writes its files into the empty folder that it is given and returns the step's facts.
        """
        index = self._begin(name)
        key = self.key_of(name, cause)
        hit = self._supervisor.ask("lookup", key=key)
        if hit["found"]:
            outcome = StepOutcome(
                name, key, Path(hit["root"]), hit["digest"], hit["facts"], True, hit["seconds"]
            )
        else:
            out = self._folder / f"{index:02d}-{name.replace(':', '-')}"
            out.mkdir(parents=True)
            started = time.monotonic()
            facts = self._fail_visibly(index, name, lambda: work(out))
            seconds = time.monotonic() - started
            kept = self._supervisor.ask(
                "store", key=key, name=name, root=str(out), facts=facts, seconds=seconds
            )
            outcome = StepOutcome(name, key, Path(kept["root"]), kept["digest"], facts, False, seconds)
        self.outcomes.append(outcome)
        self._end(index, name, outcome.cached, outcome.seconds, key, outcome.facts)
        return outcome

    @staticmethod
    def key_of(name: str, cause: Mapping[str, Any]) -> str:
        """The key under which a step with this name and cause is stored."""
        return step_key({"step": name, **cause})

    def fresh(self, name: str, work: Callable[[], T]) -> T:
        """One step that is done anew each time: a measurement is never taken from a cache."""
        index = self._begin(name)
        started = time.monotonic()
        value = self._fail_visibly(index, name, work)
        self._end(index, name, False, time.monotonic() - started, None, {})
        return value

    def _begin(self, name: str) -> int:
        index = self._count
        self._count += 1
        self._supervisor.tell("progress", stage=name, done=0, total=0, message="")
        self._tell(index, name, "running")
        return index

    def _end(
        self, index: int, name: str, cached: bool, seconds: float, key: str | None, facts: dict[str, Any]
    ) -> None:
        self._tell(index, name, "done", cached=cached, seconds=seconds, key=key, facts=facts)

    def _fail_visibly(self, index: int, name: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException:
            self._tell(index, name, "failed")
            raise

    def _tell(
        self,
        index: int,
        name: str,
        status: str,
        *,
        cached: bool = False,
        seconds: float | None = None,
        key: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self._supervisor.tell(
            "step",
            index=index,
            name=name,
            status=status,
            cached=cached,
            seconds=seconds,
            key=key,
            facts=facts or {},
        )
