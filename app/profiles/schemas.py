"""A profile: the artifact `profile.json` of a job of kind `profile`. Workers write it; reports, comparisons and clients read it.

Times are milliseconds for one inference (one run of a batch), or for one step where training was profiled.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1

Bound = Literal["compute", "memory", "overhead"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Layer(_Part):
    """One row of a profile: a node, a kernel, or a group of nodes that the runtime fused."""

    name: str = Field(description="What the runtime calls it.")
    operator: str = Field(description="Its operator type there: `Conv`, `Reorder`, `aten::addmm`.")
    layers: list[str] = Field(
        description="The original model's layers that it computes, as `burnish models show --layers` and ONNX nodes name "
        "them. Empty: work that the runtime added, or nobody can tell."
    )
    calls: float = Field(description="How often it runs in one inference.")
    mean_ms: float = Field(description="Of all its calls in one inference together.")
    share: float = Field(description="Of the sum over all rows.")
    precision: str | None = Field(None, description="What it computes in: `fp32`, `int8` …")
    place: str | None = Field(
        None, description="What runs it: an execution provider, a kernel's name, a device."
    )
    layout: str | None = Field(
        None,
        description="How its kernel wants values laid out in memory, where the runtime tells: `nchwc` (ONNX Runtime's blocks of "
        "channels), `nhwc`, OpenVINO's own words such as `aBcd16b`. Null: as the model has them, or nobody can tell.",
    )
    output: list[int] | None = Field(None, description="The shape of its first output.")
    flops: int | None = Field(None, description="Operations of one inference; a multiply and an add are two.")
    moved_bytes: int | None = Field(
        None,
        description="What it reads and writes at least: inputs, weights and outputs, each once an inference.",
    )
    floor_ms: float | None = Field(None, description="The least time that the device's peaks allow.")
    bound: Bound | None = Field(
        None,
        description="What holds it: `compute` or `memory` where its floor explains most of its time, else `overhead`.",
    )


class Peaks(_Part):
    """What the device reached on a large matrix product and a large copy, with as many threads as the engine has."""

    flops_per_s: dict[str, float] = Field(
        description="By precision: `fp32`, `tf32`, `bf16`, `fp16`, `int8`, `fp8` where it was measured, and is no slower than fp32."
    )
    bytes_per_s: float = Field(description="Of the large copy, read and written together.")
    cached_bytes_per_s: float | None = Field(
        None, description="Of the fastest small copy, which stays in a cache."
    )
    cached_bytes: int | None = Field(
        None,
        description="Up to which size, both sides together, copies were clearly faster than the large one.",
    )
    overhead_ms: float = Field(description="What calling one small operator costs.")
    threads: int
    measured_with: str = Field(description="The library and its version.")
    measured_at: str


class Gain(_Part):
    """How many times faster the whole model becomes: an estimate and the interval in which it should lie."""

    value: float
    low: float
    high: float


class Advice(_Part):
    """Something that should help, why, and the job that tries it."""

    number: int = Field(
        description="From 1, the largest gain first: `burnish jobs submit --advice JOB:NUMBER`."
    )
    rule: str = Field(description="The rule that found it.")
    title: str
    why: str = Field(description="What was seen, in words.")
    evidence: dict[str, Any] = Field(description="What was seen, in numbers.")
    layers: list[str] = Field(description="The original model's layers that it is about.")
    gain: Gain | None = Field(None, description="Null: it saves no time, or nobody can tell how much.")
    costs_accuracy: bool = Field(description="Whether the accuracy may suffer: give an evaluation then.")
    request: dict[str, Any] | None = Field(
        None,
        description="The body of the job that tries it, data to be filled in; null: no job does, `why` says what to do.",
    )


class Phase(_Part):
    """One part of a training step: `loader` (waiting for samples), `forward`, `loss` (a teacher's answers too), `backward`,
    `optimizer`, `other` (what lies between them). Together they are the step."""

    name: str
    mean_ms: float
    share: float


class Profile(_Part):
    """Where the time goes, why, and what would help."""

    schema_: int = Field(SCHEMA, alias="schema")
    subject: dict[str, Any] = Field(description="`id`, `digest`, `name` and `format` of what was profiled.")
    target: dict[str, Any] = Field(description="`runtime` and `params`.")
    of: Literal["inference", "training"] = "inference"
    batch: int
    threads: int
    runs: int = Field(description="Profiled ones.")
    latency: dict[str, Any] = Field(
        description="Without a profiler: `p50_ms`, `low_ms`, `high_ms`, `launches`, `samples`."
    )
    profiled_ms: float = Field(description="The median run with the profiler at work.")
    layers_ms: float = Field(description="The sum over all rows.")
    gap: str | None = Field(
        None,
        description="Where the sum is more than 10% off the latency without a profiler: why, and by how much.",
    )
    layers: list[Layer]
    phases: list[Phase] = Field(default_factory=list, description="Of a training step.")
    peak_memory_bytes: int | None = Field(None, description="Of tensors, where the profiler sees them.")
    memory: list[dict[str, Any]] = Field(
        default_factory=list, description="The peak by operator: `operator`, `bytes`; the largest first."
    )
    peaks: Peaks | None = None
    advice: list[Advice] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="What this profile cannot tell.")
    machine: dict[str, Any]
    versions: dict[str, str]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
