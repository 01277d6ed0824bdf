"""What a runtime's profiler saw, before anybody says what it means."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from app.catalog.spec import Params
from app.profiles.schemas import Layer, Profile
from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine, Feeds

TraceKind = Literal["chrome", "flamegraph", "tensorboard", "runtime"]


@dataclass(frozen=True)
class Row:
    """A node, a kernel, or a group of fused nodes; times of one inference.

    `sources` are the nodes of the model that the engine was built from (its ONNX graph, its exported program), as far as the
    runtime tells: `origin.py` leads them on to the layers of the model that was uploaded.
    """

    name: str
    operator: str
    calls: float
    mean_ms: float
    precision: str | None = None
    place: str | None = None
    output: tuple[int, ...] | None = None
    sources: tuple[str, ...] = ()
    flops: int | None = None
    moved_bytes: int | None = None
    layout: str | None = None


@dataclass(frozen=True)
class Trace:
    """A file that a viewer opens: `chrome` in Perfetto, `flamegraph` in speedscope, `tensorboard` unpacked as its folder of logs,
    `runtime` in the runtime's own tool."""

    kind: TraceKind
    path: Path
    media_type: str


@dataclass(frozen=True)
class Plan:
    """How long to profile: untimed runs first, then as many as fit into `seconds`, at least `least_runs`, at most `most_runs`."""

    seconds: float = 5.0
    warm_up_seconds: float = 0.5
    least_runs: int = 10
    most_runs: int = 500


@dataclass(frozen=True)
class Recorded:
    """What a profiler saw of an engine. `run_ms` are whole runs with the profiler at work."""

    rows: list[Row]
    run_ms: list[float]
    traces: list[Trace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    memory: list[dict[str, Any]] = field(default_factory=list)  # {operator, bytes}, the largest first


@dataclass(frozen=True)
class Made:
    """A profile, the files beside it, and the timed runs that the report draws, by side (`measure.latency`)."""

    profile: Profile
    traces: list[Trace]
    runs_ns: Mapping[str, Any] = field(default_factory=dict)


def as_layers(rows: Sequence[Row], names: Sequence[Sequence[str]]) -> list[Layer]:
    """Rows as a profile has them. `names` are for each row the layers of the model that was uploaded."""
    total = sum(row.mean_ms for row in rows)
    return [
        Layer(
            name=row.name,
            operator=row.operator,
            layers=list(layers),
            calls=row.calls,
            mean_ms=row.mean_ms,
            share=row.mean_ms / total if total else 0.0,
            precision=row.precision,
            place=row.place,
            layout=row.layout,
            output=list(row.output) if row.output is not None else None,
            flops=row.flops,
            moved_bytes=row.moved_bytes,
        )
        for row, layers in zip(rows, names, strict=True)
    ]


def read_recorded(path: Path) -> Recorded:
    """What another process wrote as JSON (`launch.py`)."""
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        Row(**{**row, "sources": tuple(row["sources"]), "output": row["output"] and tuple(row["output"])})
        for row in said.pop("rows")
    ]
    traces = [Trace(one["kind"], Path(one["path"]), one["media_type"]) for one in said.pop("traces")]
    return Recorded(rows=rows, traces=traces, **said)


class Profiler(Protocol):
    """One file a runtime implements this, registered by `@profiles(NAME)`."""

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """Load the engine with its profiler on and run the feeds in turns; traces go into `out`.

        It runs in a process of its own, pinned like a measured launch.

        Raises:
            BurnishError: the engine does not load or run.
        """
        ...


@runtime_checkable
class Instrumenting(Protocol):
    """A profiler that sees more of an engine that was built to be looked into."""

    def instrumented(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """The engine of a model, as the runtime builds it but for marks that the profiler reads; it is never delivered.

        Raises:
            BurnishError: as the runtime's `build`.
        """
        ...
