"""What every runtime gives: build, load, run, facts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from app.catalog.spec import Params
from workers.memory import Memory
from workers.model_handle import ModelHandle

Feeds = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Engine:
    """A built engine: `entry` is the file to load, relative to `root`, which holds every file that it needs."""

    root: Path
    entry: str
    facts: dict[str, Any] = field(
        default_factory=dict
    )  # nodes by operator and precision, fused quantization, …

    @property
    def path(self) -> Path:
        """The file to load."""
        return self.root / self.entry

    @property
    def size_bytes(self) -> int:
        """The size of all files that the engine needs."""
        return sum(file.stat().st_size for file in self.root.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Uncovered:
    """A node that a runtime cannot run, and why; its name and operator where they are known."""

    node: str | None
    operator: str | None
    reason: str


@dataclass(frozen=True)
class Coverage:
    """How much of a model a runtime can run: `operators` counts nodes, those inside control flow included.

    `evidence`: "supported" where it has kernels for the others, "parsed" where it has only read them, and building tells.
    """

    operators: int
    unsupported: list[Uncovered]
    evidence: Literal["supported", "parsed"] = "supported"

    @property
    def share(self) -> float:
        """The share of the nodes that are covered."""
        covered = max(self.operators - len(self.unsupported), 0)
        return covered / self.operators if self.operators else 1.0


class LoadedEngine(Protocol):
    """An engine in memory, ready to run. `inputs` and `outputs` are [{name, dtype (numpy), shape}], free dimensions None."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def run(self, feeds: Feeds) -> Outputs: ...


@runtime_checkable
class Concurrent(Protocol):
    """A loaded engine that may have several runs under way, where its parameters ask for that.

    Its throughput is then measured so. Source of the term: AsyncInferQueue of OpenVINO, instances of a served model.
    """

    requests: int  # runs that its threads are arranged for, side by side; 1: one after another

    def run_many(self, feeds: Iterable[Feeds], take: Callable[[int, Outputs], None]) -> None:
        """Run all of them, `requests` at a time, and return when the last is done.

        `take` gets each one's place in `feeds` and its outputs as it ends, from any thread, several at once. Raises as `run`.
        """
        ...


class Runtime(Protocol):
    """One file a runtime implements this, registered by `@implements(SPEC)`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Turn a model into an engine inside `out`.

        Raises:
            UnsupportedOperator, InvalidModel: the runtime refuses the model; the error names node and cause.
        """
        ...

    def load(self, engine: Engine, params: Params) -> LoadedEngine: ...

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: runtime version, device, CPU features, shapes (for the manifest)."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Distribution versions that matter for results."""
        ...

    def coverage(self, model: ModelHandle) -> Coverage:
        """Which nodes of a model it can run. Asked in a process of its own, before anything is built.

        Raises:
            BurnishError: it cannot even read the model.
        """
        ...


@runtime_checkable
class SelfTested(Protocol):
    """A runtime that knows a cheaper proof that this machine serves it than building, loading and running an engine."""

    def self_test(self) -> None:
        """Raises whatever is wrong with this machine; its text is told as the reason."""
        ...


@runtime_checkable
class AheadOfTime(Protocol):
    """A runtime that builds engines for devices that this machine need not have."""

    def hindrance(self, params: Params) -> str | None:
        """Why an engine with these parameters cannot run on this machine; None: it can."""
        ...

    def signature(self, engine: Engine) -> dict[str, list[dict[str, Any]]]:
        """{inputs, outputs: [{name, dtype, shape}]} of an engine that cannot be loaded here, as a loaded one has them."""
        ...


@runtime_checkable
class LookedInto(Protocol):
    """A runtime that knows more of an engine once it is on its device."""

    def look_into(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Facts to be put over those of the build."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A runtime that tells how far a build is, and may learn from builds before it."""

    def build_reporting(
        self,
        model: ModelHandle,
        params: Params,
        out: Path,
        report: Callable[[int, int, str], None],
        memory: Memory | None = None,
    ) -> Engine:
        """As `build`; `report` gets steps done, steps in all (0: nobody knows) and what is being done. `memory`: what later
        builds may know of this one."""
        ...


def unnamed(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A signature as engines give it: free dimensions are None."""
    return [
        {**entry, "shape": [dim if isinstance(dim, int) else None for dim in entry["shape"]]}
        for entry in entries
    ]
