"""What jobs of kind `profile` and `benchmark` are asked for, besides subject, targets and data."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.http.schemas import RequestSchema

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Count = Annotated[int, Field(ge=1, le=1024)]
JobKind = Literal["optimize", "profile", "benchmark"]
Scenario = Literal["single-stream", "multi-stream", "offline", "server"]


class ProfileSettings(RequestSchema):
    """How an engine, or the steps of a training, are profiled."""

    of: Literal["inference", "training"] = Field(
        "inference",
        description="`training`: the steps of the recipe's last pass, which trains, in place of an engine.",
    )
    batch: Batch | None = Field(
        None, description="Samples of one inference; absent: 1, or what the engine is fixed at."
    )
    seconds: Seconds = Field(5.0, description="How long to run with the profiler on.")
    traces: list[Literal["chrome", "flamegraph", "tensorboard"]] = Field(
        ["chrome"],
        max_length=3,
        description="What to keep for viewers: `chrome` opens in Perfetto, `flamegraph` in speedscope, `tensorboard` in its "
        "profiler plugin; as far as the runtime gives them.",
    )
    advise: bool = Field(True, description="Measure the device's peaks, and say what would help.")


class BenchmarkSettings(RequestSchema):
    """The scenarios (after MLPerf Inference's definitions) and what is varied: every combination is one point."""

    scenarios: list[Scenario] = Field(
        ["single-stream"],
        min_length=1,
        max_length=4,
        description="`single-stream`: one query after another. `multi-stream`: a query is as many samples as there are streams. "
        "`offline`: all samples are there from the start. `server`: queries arrive at random (Poisson), and the highest rate is "
        "looked for that keeps `p99_ms`.",
    )
    batch: list[Batch] = Field([1], min_length=1, max_length=20, description="Samples of one inference.")
    threads: list[Count] = Field(
        default_factory=list, max_length=20, description="Threads to try; absent: the target's."
    )
    streams: list[Count] = Field(
        [1], min_length=1, max_length=20, description="Queries under way side by side, where it matters."
    )
    seconds: Seconds = Field(5.0, description="How long each point is measured, launches together.")
    launches: int = Field(5, ge=2, le=50, description="How often each point is started anew.")
    p99_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="The bound of scenario `server`, from arrival to answer."
    )
    energy: bool = Field(
        False, description="Energy for each sample too, where the machine tells it (RAPL, NVML)."
    )

    @model_validator(mode="after")
    def _bounded(self) -> "BenchmarkSettings":
        if "server" in self.scenarios and self.p99_ms is None:
            raise ValueError("the scenario `server` needs `p99_ms`, the latency that most queries must keep")
        for name in ("scenarios", "batch", "threads", "streams"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} holds a value twice")
        return self
