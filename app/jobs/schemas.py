"""Jobs as clients send and see them."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    field_validator,
)

from app.catalog.packages import PackageName
from app.catalog.recipe import Recipe, Target
from app.catalog.short_target import short_target
from app.catalog.spec import InputRole
from app.http.paging import PageQuery
from app.http.schemas import RequestSchema, UtcTime
from app.jobs.looking import BenchmarkSettings, JobKind, ProfileSettings
from app.jobs.status import JobStatus

DAY_SECONDS = 86_400
LABEL_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"

Id = Annotated[str, StringConstraints(min_length=1, max_length=40)]
LabelKey = Annotated[str, StringConstraints(pattern=f"^{LABEL_KEY}$")]
LabelValue = Annotated[str, StringConstraints(max_length=255)]
Seconds = Annotated[float, Field(gt=0, le=30 * DAY_SECONDS, allow_inf_nan=False)]


def _short_target(value: Any) -> Any:
    return short_target(value) if isinstance(value, str) else value


TargetRequest = Annotated[
    Target,
    BeforeValidator(_short_target, json_schema_input_type=Target | str),
    Field(
        description="A runtime and its parameters. Short forms: its name alone, or `tensorrt-rtx:sm89` for GPUs of a "
        "compute capability (`sm86+sm89` for two)."
    ),
]


class EvaluationRequest(RequestSchema):
    """The data and the metric that accuracy is measured with."""

    dataset: Id
    metric: str = Field(max_length=40, description="A metric's name in `GET /v1/metrics`.")
    output: str | None = Field(
        None, max_length=500, description="The output that the metric reads; absent: the model's only one."
    )


class BudgetRequest(RequestSchema):
    """What the optimized model may lose."""

    max_drop: float = Field(
        ge=0, allow_inf_nan=False, description="Absolute: 0.01 is one point of a metric in 0..1."
    )


class OptionsRequest(RequestSchema):
    """What a job may do, and does not do unless it is told."""

    allow_synthetic: bool = Field(False, description="Generated data may stand in for calibration data.")
    allow_unmeasured: bool = Field(
        False, description="An engine that cannot run where it is built may leave unverified."
    )
    no_cache: bool = Field(False, description="Do every step anew, whatever is stored.")
    package: list[PackageName] = Field(
        default_factory=list,
        max_length=10,
        description="Forms to pack the engine in besides the bundle: each is an artifact of kind `package`.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="The seed of everything random.")

    @field_validator("package")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a form comes twice")
        return value


class LimitsRequest(RequestSchema):
    """How long a job may take; past a limit it ends as `timed_out`."""

    pending_seconds: Seconds = Field(3600.0, description="From its creation to its first start.")
    running_seconds: Seconds = Field(
        3600.0, description="From its first start, waits between attempts included."
    )


class AdviceRequest(RequestSchema):
    """A piece of advice of a job of kind `profile`."""

    job: Id
    number: int = Field(ge=1, le=1000)


class _JobBody(RequestSchema):
    """What every kind of job says."""

    subject: Id = Field(description="A model, or an artifact of kind `model`.")
    name: str | None = Field(None, min_length=1, max_length=200)
    recipe: Recipe | None = Field(None, description="The passes; absent: the target's preset.")
    inputs: dict[InputRole, Id] = Field(
        default_factory=dict,
        description="Data by role: what a preset's passes read, and what both models are compared on where there is no "
        "`evaluation`. A recipe's passes name their own.",
    )
    targets: list[TargetRequest] = Field(
        min_length=1, max_length=20, description="More than one: a parent job with a child for each."
    )
    options: OptionsRequest = Field(default_factory=OptionsRequest)
    limits: LimitsRequest = Field(default_factory=LimitsRequest)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)

    def dataset_paths(self) -> dict[str, str]:
        """Every dataset that the request names, with the first place where it does."""
        named = [(id_, path) for role, id_, path in self._inputs() if role != "teacher"]
        return dict(reversed([*named, *self._more_datasets()]))

    def teacher_paths(self) -> dict[str, str]:
        """Every model and artifact that a pass learns from, with the first place that names it."""
        return dict(reversed([(id_, path) for role, id_, path in self._inputs() if role == "teacher"]))

    def _more_datasets(self) -> list[tuple[str, str]]:
        return []

    def _inputs(self) -> list[tuple[InputRole, str, str]]:
        named = [(role, id_, f"inputs.{role}") for role, id_ in self.inputs.items()]
        for index, step in enumerate(self.recipe.passes if self.recipe else ()):
            named += [
                (role, id_, f"recipe.passes[{index}].inputs.{role}") for role, id_ in step.inputs.items()
            ]
        return named


class OptimizeRequest(_JobBody):
    """Make an engine: passes, build, measurement, verification."""

    kind: Literal["optimize"]
    evaluation: EvaluationRequest | None = None
    budget: BudgetRequest | None = Field(None, description="Needs `evaluation`.")
    advice: AdviceRequest | None = Field(
        None, description="The advice that this job follows: its result holds prediction and measurement."
    )

    def _more_datasets(self) -> list[tuple[str, str]]:
        return [] if self.evaluation is None else [(self.evaluation.dataset, "evaluation.dataset")]


class _LookRequest(_JobBody):
    """A job that looks at an engine and makes none to keep."""

    subject: Id = Field(description="A model, an artifact of kind `model`, or one of kind `engine`.")
    recipe: Recipe = Field(
        default_factory=lambda: Recipe(passes=[]),
        description="Passes to be done first; absent: none, the model is taken as it is.",
    )
    targets: list[TargetRequest] = Field(
        default_factory=list,
        max_length=20,
        description="More than one: a parent job with a child for each. May be left out where the subject is an engine.",
    )
    data: Id | None = Field(
        None, description="The dataset that the engine is run on; absent: seeded random inputs."
    )

    def _more_datasets(self) -> list[tuple[str, str]]:
        return [] if self.data is None else [(self.data, "data")]


class ProfileRequest(_LookRequest):
    """Find out where the time goes, why, and what would help."""

    kind: Literal["profile"]
    profile: ProfileSettings = Field(default_factory=ProfileSettings)


class BenchmarkRequest(_LookRequest):
    """Measure how an engine serves: scenarios, and sweeps of batch, threads and streams."""

    kind: Literal["benchmark"]
    benchmark: BenchmarkSettings = Field(default_factory=BenchmarkSettings)


JobRequest = Annotated[OptimizeRequest | ProfileRequest | BenchmarkRequest, Field(discriminator="kind")]
_JOB_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


def read_request(stored: Any) -> JobRequest:
    """A job's request from plain data.

    Raises:
        ValidationError: it is none.
    """
    return _JOB_REQUEST.validate_python(stored)


class RebuildRequest(RequestSchema):
    """Build an engine anew from the optimized model that its job stored."""

    target: TargetRequest | None = Field(None, description="Absent: the target of the job that made it.")
    name: str | None = Field(None, min_length=1, max_length=200, description="Absent: that job's.")
    evaluation: EvaluationRequest | None = Field(
        None, description="Absent: that job's, if its dataset is still there."
    )
    options: OptionsRequest = Field(default_factory=OptionsRequest)
    limits: LimitsRequest = Field(default_factory=LimitsRequest)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)


class JobQuery(PageQuery):
    """Which jobs to list."""

    status: JobStatus | None = Field(None, description="Only those of this status.")
    kind: JobKind | None = Field(None, description="Only those of this kind.")
    subject: Id | None = Field(None, description="Only those that work on this model or artifact.")
    parent: Id | None = Field(None, description="Only the children of this job.")
    label: list[Annotated[str, StringConstraints(pattern=f"^{LABEL_KEY}=.{{0,255}}$")]] = Field(
        default_factory=list,
        max_length=8,
        description="Only those with this label, `KEY=VALUE`; repeat for more.",
    )


class EventsQuery(RequestSchema):
    """Where a stream of events begins."""

    last_event_id: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Only events after this one, as `Last-Event-ID` asks for."
    )


class Progress(BaseModel):
    """How far the stage is; `total` 0: nobody knows."""

    done: int
    total: int
    message: str


class StepAnswer(BaseModel):
    """One step of the current attempt."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    status: Literal["running", "done", "failed"]
    cached: bool = Field(description="Its result was stored already.")
    seconds: float | None = Field(description="How long it ran, when it ran; null while it runs.")
    key: str | None = Field(description="The SHA-256 of its whole cause; null: it is never stored.")


class JobAnswer(BaseModel):
    """A job. `finished` tells whether it will change any more."""

    id: str
    kind: str
    name: str | None
    status: JobStatus
    finished: bool
    stage: str | None = Field(description="What it does now; free to grow.")
    progress: Progress
    attempt: int = Field(description="How often it was started.")
    parent: str | None
    children: list[str]
    retry_of: str | None
    created_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    queue_seconds: float | None = Field(
        description="From its creation to its first start, and from one worker that handed it over to the next; null before."
    )
    steps: list[StepAnswer]
    result: dict[str, Any] | None
    problem: dict[str, Any] | None = Field(description="Why it failed, as an error answer says it.")
    labels: dict[str, str]
    subject: str
    recipe: Recipe | None = Field(
        description="Defaults filled in, versions pinned; null: a parent's presets."
    )
    inputs: dict[InputRole, str]
    targets: list[Target]
    evaluation: EvaluationRequest | None
    budget: BudgetRequest | None
    advice: AdviceRequest | None = Field(description="The advice that the job follows.")
    data: str | None = Field(description="Of kind `profile` or `benchmark`: the dataset that engines run on.")
    profile: ProfileSettings | None = Field(description="Of kind `profile`.")
    benchmark: BenchmarkSettings | None = Field(description="Of kind `benchmark`.")
    options: OptionsRequest
    limits: LimitsRequest
    url: str


class PlannedStep(BaseModel):
    """One pass, or one conversion between formats (`convert:…`), as it would be done."""

    name: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]
    takes: str = Field(description="The precision that it would find.")
    leaves: str = Field(description="The precision that it would leave.")


class WorkersAnswer(BaseModel):
    """Who could take a job."""

    queue: str = Field(description="The queue that the job would wait in.")
    state: Literal["online", "offline"] | None = Field(description="null: no worker ever served the queue.")
    workers: list[str] = Field(description="The live ones.")


class CoverageAnswer(BaseModel):
    """How much of a model a runtime can run, as it said when the model was inspected. Whether an engine can be built shows
    when it is built: a shape or a value may still be refused."""

    operators: int = Field(description="Nodes, those inside control flow included.")
    share: float = Field(description="The share of them that the runtime can run.")
    evidence: Literal["supported", "parsed"] = Field(
        "supported",
        description="supported: it has kernels for them. parsed: it has read them, and whether an engine can be built of them "
        "shows in the build.",
    )
    unsupported: list[dict[str, Any]] = Field(description="Nodes that it cannot: {node, operator, reason}.")
    unsupported_count: int = Field(description="How many there are; `unsupported` holds the first ones.")
    versions: dict[str, str] = Field(description="Of the runtime's packages that were asked.")


class TargetPlan(BaseModel):
    """What would happen for one target."""

    target: Target
    steps: list[PlannedStep]
    notes: list[str] = Field(description="Why a preset chose these passes.")
    workers: WorkersAnswer
    coverage: CoverageAnswer | None = Field(
        default=None,
        description="Null: the runtime was not at hand where the model was inspected, or could not tell.",
    )
    problem: dict[str, Any] | None = Field(
        description="Why the job would be refused; null: it would be queued."
    )


class OperatorsAnswer(BaseModel):
    """The model's operators."""

    counts: dict[str, int]
    other_domains: list[str] = Field(
        description="Domains besides ONNX's own: whether a target knows their operators shows when it builds."
    )


class ValidationAnswer(BaseModel):
    """What a job would do; nothing was queued."""

    valid: bool
    inputs: list[dict[str, Any]] = Field(description="The model's inputs: name, dtype, shape.")
    outputs: list[dict[str, Any]]
    operators: OperatorsAnswer
    targets: list[TargetPlan]
