"""What a pass, a runtime and a metric say of themselves. Data alone: the hands are in `workers`, bound by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Precision = Literal[
    "fp32", "fp16", "bf16", "int8", "fp8", "int8-dynamic", "weights-8bit", "weights-4bit", "mixed"
]
InputRole = Literal["calibration", "train", "validation", "teacher"]
Need = Literal["required", "optional", "required-or-synthetic"]
PROTOBUF_LIMIT_BYTES = 2**31 - 1  # a larger model keeps its weights in files beside the protobuf


class Params(BaseModel):
    """Parameters of a pass, runtime or metric: every field carries a description; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T")


@dataclass(frozen=True)
class ByParameter(Generic[T]):
    """Something that depends on a parameter: by its value, all values that it can take."""

    param: str
    values: Mapping[Any, T]

    def of(self, params: Mapping[str, Any]) -> T:
        """What it is with these validated parameters."""
        return self.values[params[self.param]]


@dataclass(frozen=True)
class WhereGiven(Generic[T]):
    """Something that holds only where a parameter is given, which is absent (None) by default."""

    param: str
    value: T

    def of(self, params: Mapping[str, Any]) -> T | None:
        """What it is with these validated parameters."""
        return None if params.get(self.param) is None else self.value


@dataclass(frozen=True)
class PassSpec:
    """One transformation of a model.

    `consumes` are the precisions that it takes, `produces` the one it leaves (None: as it was). `inputs` are the
    datasets or models that it reads. `over_2gb`: whether it works on a model whose weights pass protobuf's 2 GB.
    `version` goes up whenever the same input may give another output; it is part of every step key. `dialect` names the
    operators beyond the standard's that it leaves, `dialects` those that it takes (as what it need not understand).
    `bound` is a parameter that bounds the drop of the metric `metric` at the output `output`, parameters too, on labelled
    `validation` data.
    """

    name: str
    version: int
    title: str
    params: type[Params]
    consumes: frozenset[Precision]
    produces: Precision | ByParameter[Precision] | None
    over_2gb: bool
    formats: frozenset[str] = frozenset({"onnx"})
    leaves: str | None = None  # the model format that it leaves; None: as it was
    inputs: Mapping[InputRole, Need | ByParameter[Need | None] | WhereGiven[Need]] = field(
        default_factory=dict
    )
    bound: str | None = None
    dialect: str | None = None  # None: as it was
    dialects: frozenset[str] = frozenset()
    packages: tuple[str, ...] = ()  # distributions whose version is part of the step key
    hardware: bool | WhereGiven[bool] = False  # whether the machine is part of the step key
    times: bool | ByParameter[bool] = False  # whether it chooses by latency on the job's target
    leaves_aside: bool = False  # whether it leaves files besides the model, which become artifacts
    unkeyed: frozenset[str] = (
        frozenset()
    )  # parameters that change how fast it is, and nothing of what it leaves

    def produced(self, params: Mapping[str, Any]) -> Precision | None:
        """The precision that it leaves with these validated parameters; None: as it was."""
        return self.produces.of(params) if isinstance(self.produces, ByParameter) else self.produces

    def needs(self, params: Mapping[str, Any]) -> dict[InputRole, Need]:
        """What it reads with these validated parameters, and how much it needs that."""
        found = {
            role: need if isinstance(need, str) else need.of(params) for role, need in self.inputs.items()
        }
        return {role: need for role, need in found.items() if need is not None}

    def by_machine(self, params: Mapping[str, Any]) -> bool:
        """Whether another machine may give another output with these validated parameters."""
        return self.hardware if isinstance(self.hardware, bool) else bool(self.hardware.of(params))

    def timed(self, params: Mapping[str, Any]) -> bool:
        """Whether it chooses by latency on the job's target with these validated parameters."""
        return self.times if isinstance(self.times, bool) else self.times.of(params)

    @property
    def documentation(self) -> str:
        """The parameter class's docstring."""
        return (self.params.__doc__ or "").strip()


def need_text(need: Need | ByParameter[Need | None] | WhereGiven[Need]) -> str:
    """A need in words, with the parameter that it depends on."""
    if isinstance(need, str):
        return need
    if isinstance(need, WhereGiven):
        return f"{need.value} where {need.param} is given"
    kinds = dict.fromkeys(one for one in need.values.values() if one)
    told = {
        kind: " or ".join(str(value) for value, one in need.values.items() if one == kind) for kind in kinds
    }
    return ", ".join(f"{kind} where {need.param} is {values}" for kind, values in told.items())


@dataclass(frozen=True)
class FormatSpec:
    """What a model can be uploaded as.

    `converts_to` are the formats that it can become. `declares` is what the uploader must or may say of it: signature,
    architecture. `reference`: whether its own framework runs it, as the reference that an engine is shown beside.
    `version` goes up whenever a conversion may give another model; it is part of the conversion's key.
    """

    name: str
    version: int
    title: str
    files: str
    documentation: str
    converts_to: frozenset[str]
    declares: frozenset[str] = frozenset()
    reference: bool = False
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What validation and presets know of a model: read from an inspected model's row."""

    format: str
    precision: Precision
    operators: Mapping[str, int]
    size_bytes: int
    inputs: tuple[Mapping[str, Any], ...]  # {name, dtype, shape}; a free dimension is a string or None
    outputs: tuple[Mapping[str, Any], ...]
    control_flow: Mapping[str, int] = field(
        default_factory=dict
    )  # of `operators`, those inside If, Loop and Scan
    conversions: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # tried: format -> facts, or {problem}
    coverage: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # runtime -> {share, unsupported, …}


@dataclass(frozen=True)
class PresetContext:
    """What a preset may look at."""

    model: ModelFacts
    calibration: str | None  # the dataset that calibration may read
    allow_synthetic: bool


@dataclass(frozen=True)
class PresetChoice:
    """What a preset chose: the steps of a recipe, and why these, in sentences for the report."""

    passes: list[dict[str, Any]]
    reasons: list[str]


Preset = Callable[[PresetContext], PresetChoice]


@dataclass(frozen=True)
class RuntimeSpec:
    """What runs an engine. `preset` gives the passes of a job that names none; its docstring is its documentation.

    `baseline` are the parameters whose values the unmodified model is built with, whatever the target says;
    `baseline_precision` is what an fp32 model computes in then, another than fp32 only where the device has none.
    `ahead_of_time`: it builds on machines that lack its device; such an engine leaves unverified, where that is allowed.
    `builders` are distributions that build engines and that engines do not need, beside `packages`, which they do.
    `sparsity` says in words what weights that are zero are worth.
    """

    name: str
    version: int
    title: str
    params: type[Params]
    device: str  # cpu, cuda, …
    formats: frozenset[str]  # of the models that `build` takes
    preset: Preset
    packages: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()
    baseline: Mapping[str, Any] = field(default_factory=dict)  # parameters that make it compute in fp32
    baseline_precision: Precision = "fp32"
    dialects: frozenset[str] = frozenset()  # operators beyond the standard's that it runs, see `PassSpec`
    ahead_of_time: bool = False
    sparsity: str = "zeros are multiplied as other numbers are: no faster"  # of weights

    def baseline_params(self, params: Params) -> Params:
        """The parameters of the baseline that an engine with these is measured against."""
        return params.model_copy(update=dict(self.baseline))

    @property
    def documentation(self) -> str:
        """The parameter class's docstring."""
        return (self.params.__doc__ or "").strip()


@dataclass(frozen=True)
class MetricSpec:
    """What accuracy means. `paired` metrics compare the optimized outputs with the original's and need no labels."""

    name: str
    title: str
    documentation: str
    unit: str
    higher_is_better: bool
    needs_labels: bool
    paired: bool
    low: float | None = None  # the least value it can take
    high: float | None = None
