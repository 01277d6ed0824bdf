"""A benchmark: the artifact `benchmark.json` of a job of kind `benchmark`. Scenarios are MLPerf Inference's (arXiv:1911.02549)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.looking import Scenario

SCHEMA = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Latency(_Part):
    """Of queries, in milliseconds. A percentile is there only where at least ten queries lie beyond it."""

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    mean_ms: float
    queries: int


class Rate(_Part):
    """Samples a second: the median of what launches reached, and its 95% interval."""

    value: float
    low: float
    high: float


class Trial(_Part):
    """One run of scenario `server` at one rate."""

    rate_per_s: float = Field(description="Queries that arrived, a second.")
    queries: int
    late: int = Field(description="Queries whose answer took longer than the bound.")
    kept: bool | None = Field(
        description="Whether at most one in a hundred is late, by the 95% interval; null: too few queries tell."
    )
    p99_ms: float | None
    mean_batch: float = Field(description="Queries that were answered by one run.")
    utilization: float = Field(description="The share of time in which the engine ran.")


class Energy(_Part):
    """What the machine said of its use of energy while a point was measured."""

    joules_per_sample: float
    watts: float
    source: str = Field(description="`rapl` (all processors of the machine), `nvml` (the GPU).")


class Point(_Part):
    """One combination of what is varied, in one scenario."""

    scenario: Scenario
    batch: int
    threads: int
    streams: int
    status: Literal["measured", "unstable", "failed"]
    problem: dict[str, Any] | None = Field(None, description="Why it failed.")
    latency: Latency | None = None
    throughput: Rate | None = None
    variation: float | None = Field(
        None, description="The standard deviation of the launches' medians over their mean."
    )
    runs: int = Field(
        1,
        description="Of one query, one after another: more than one in `multi-stream` where the engine's batch is fixed.",
    )
    attempts: int = Field(1, description="2: the first was unstable.")
    peak_memory_bytes: int | None = None
    load_ms: float | None = None
    server: list[Trial] = Field(
        default_factory=list, description="Of scenario `server`: every rate that was tried."
    )
    bound_ms: float | None = None
    energy: Energy | None = None


class ColdStart(_Part):
    """From nothing to the first answer, in milliseconds: medians of several processes."""

    import_ms: float = Field(description="Starting Python and importing the runtime.")
    load_ms: float = Field(description="Loading the engine, its files dropped from the page cache before.")
    first_ms: float = Field(description="The first inference.")
    launches: int
    dropped: bool = Field(description="Whether the system let the files be dropped from its page cache.")


class Knee(_Part):
    """Where larger batches stop paying: the least batch that reaches nine tenths of the best throughput."""

    batch: int
    throughput_per_s: float
    best_batch: int
    best_throughput_per_s: float
    threads: int
    streams: int


class Benchmark(_Part):
    """How an engine serves."""

    schema_: int = Field(SCHEMA, alias="schema")
    subject: dict[str, Any] = Field(description="`id`, `digest`, `name` and `format` of what was measured.")
    target: dict[str, Any] = Field(description="`runtime` and `params`.")
    points: list[Point]
    knees: list[Knee] = Field(description="Of scenario `offline` over more than one batch.")
    cold_start: ColdStart
    notes: list[str]
    machine: dict[str, Any]
    versions: dict[str, str]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
