"""A report: the artifact `report.json` of a job. Workers write it, and `report.html` and `report.md` from it; exports and clients read it.

Times are milliseconds of one run. Pairs are [before, after].
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.benchmarks.schemas import Benchmark
from app.jobs.looking import JobKind
from app.profiles.schemas import Profile

SCHEMA = 1

Pair = tuple[int, int]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Step(_Part):
    """A stored step of the job."""

    name: str
    key: str = Field(description="SHA-256 of its whole cause.")
    cached: bool = Field(description="Its result was stored already.")
    seconds: float = Field(description="How long it ran, when it ran.")
    told: list[str] = Field(default_factory=list, description="What it did, in words.")


class LaunchTimes(_Part):
    """The timed runs of one launch."""

    runs: int
    quantiles_ms: list[float] = Field(description="At the distribution's probabilities.")
    block_medians_ms: list[float] = Field(description="In the order in which the blocks were timed.")


class Distribution(_Part):
    """How long the runs of one engine took, from every timed run."""

    side: str = Field(
        description="`baseline`, `optimized`, `reference`, or `engine` where it was timed alone."
    )
    runs: int
    probabilities: list[float]
    quantiles_ms: list[float] = Field(description="Of all launches together.")
    launches: list[LaunchTimes]


class LayerChange(_Part):
    """A layer before and after a pass changed the network's structure."""

    name: str
    kind: str | None = None
    parameters: Pair | None = None
    flops: Pair | None = None
    channels: Pair | None = None
    error: float | None = Field(
        None,
        description="What its replacement gives otherwise, or the network without a branch: relative root mean square.",
    )
    weights: int | None = None
    zeros: int | None = Field(None, description="Of the weights, afterwards.")


class Surgery(_Part):
    """What a pass changed in the network's structure."""

    step: str
    parameters: Pair | None = None
    flops: Pair | None = None
    size_bytes: Pair | None = None
    layers: list[LayerChange]
    left_out: list[str] = Field(default_factory=list, description="Layers left as they are, and why.")


class Report(_Part):
    """What a job was asked, did and found."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: int = Field(SCHEMA, alias="schema")
    kind: JobKind
    job: str
    created_at: str
    subject: dict[str, Any] = Field(description="`id`, `digest`, `name` and `format` of what was worked on.")
    target: dict[str, Any] = Field(description="`runtime` and `params`.")
    recipe: dict[str, Any] = Field(description="With pinned versions and every parameter.")
    datasets: list[dict[str, Any]] = Field(description="`id`, `role` and `digest` of each.")
    request: dict[str, Any] = Field(
        description="The job's body: sent again (`burnish jobs submit report.json`) it is the same job."
    )
    command: str = Field(description="The same as a command.")
    result: dict[str, Any] = Field(description="The job's, without the ids of its artifacts.")
    steps: list[Step]
    measurements: list[dict[str, Any]] = Field(
        default_factory=list, description="`side name unit value low high samples` of each."
    )
    distributions: list[Distribution] = Field(default_factory=list)
    surgery: list[Surgery] = Field(default_factory=list)
    profile: Profile | None = None
    benchmark: Benchmark | None = None
    machine: dict[str, Any]
    versions: dict[str, str]
