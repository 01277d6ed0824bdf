"""`/formats`, `/passes`, `/runtimes`, `/metrics`: describing is free, no worker is asked."""

import inspect
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.auth.principal import Reader
from app.auth.routing import SecuredRoute
from app.catalog.formats import FORMATS
from app.catalog.metrics import METRICS
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import (
    ByParameter,
    FormatSpec,
    MetricSpec,
    Need,
    PassSpec,
    RuntimeSpec,
    WhereGiven,
    need_text,
)
from app.http.paging import Page

router = APIRouter(tags=["catalog"], route_class=SecuredRoute)


class FormatAnswer(BaseModel):
    """What a model can be uploaded as."""

    name: str
    version: int = Field(description="Goes up whenever a conversion may give another model.")
    title: str
    documentation: str
    files: str = Field(description="What is uploaded.")
    converts_to: list[str] = Field(
        description="Formats that it can become, where passes or runtimes take those."
    )
    declares: list[str] = Field(description="What the uploader says of it beside the file.")
    reference: bool = Field(description="Whether its own framework is measured beside the engine.")


class ByParameterAnswer(BaseModel):
    """A precision that depends on a parameter."""

    param: str = Field(description="The parameter's name.")
    values: dict[str, str] = Field(description="The precision by the parameter's value.")


class ConditionAnswer(BaseModel):
    """What a parameter must be."""

    param: str = Field(description="The parameter's name.")
    values: list[Any] | None = Field(description="Its values; null: any that is given.")


class PassAnswer(BaseModel):
    """One transformation of a model."""

    name: str
    version: int = Field(description="Goes up whenever the same input may give another output.")
    title: str
    documentation: str
    params: dict[str, Any] = Field(description="JSON Schema of the parameters.")
    consumes: list[str] = Field(description="Precisions that it takes.")
    produces: str | None = Field(
        description="The precision that it leaves; null: as it was, or as `produces_by` says."
    )
    produces_by: ByParameterAnswer | None = Field(
        description="The parameter that the precision depends on, where it does."
    )
    dialect: str | None = Field(description="The operators beyond the standard's that it leaves; null: none.")
    formats: list[str] = Field(description="Model formats that it takes.")
    inputs: dict[str, str] = Field(
        description="What it reads besides the model: role -> how much it needs it."
    )
    inputs_where: dict[str, ConditionAnswer] = Field(
        description="Of the roles in `inputs`, those that are read only where a parameter says so."
    )
    over_2gb: bool = Field(description="Whether it works on models over 2 GB.")


class RuntimeAnswer(BaseModel):
    """What runs an engine."""

    name: str
    version: int
    title: str
    documentation: str
    params: dict[str, Any] = Field(description="JSON Schema of the target's parameters.")
    device: str
    formats: list[str] = Field(description="Model formats that it builds from.")
    sparsity: str = Field(description="What weights that are zero are worth there.")
    preset: str = Field(description="What a job gets that names no recipe.")


class MetricAnswer(BaseModel):
    """What accuracy means."""

    name: str
    title: str
    documentation: str
    unit: str
    higher_is_better: bool
    needs_labels: bool
    paired: bool = Field(description="Compares with the original's outputs, and needs no labels.")
    low: float | None = Field(description="The least value it can take.")
    high: float | None = Field(description="The greatest value it can take.")


@router.get("/formats")
def list_formats(_: Reader) -> Page[FormatAnswer]:
    """Every format that a model can be uploaded in; which one a file is, is found by its content."""
    return Page(items=[_format(spec) for spec in FORMATS.values()], next_cursor=None)


@router.get("/passes")
def list_passes(_: Reader) -> Page[PassAnswer]:
    """Every pass, with the JSON Schema of its parameters."""
    return Page(items=[_pass(spec) for spec in PASSES.values()], next_cursor=None)


@router.get("/runtimes")
def list_runtimes(_: Reader) -> Page[RuntimeAnswer]:
    """Every runtime, with the JSON Schema of its parameters and its preset."""
    return Page(items=[_runtime(spec) for spec in RUNTIMES.values()], next_cursor=None)


@router.get("/metrics")
def list_metrics(_: Reader) -> Page[MetricAnswer]:
    """Every metric that an evaluation can name."""
    return Page(items=[_metric(spec) for spec in METRICS.values()], next_cursor=None)


def _format(spec: FormatSpec) -> FormatAnswer:
    return FormatAnswer(
        name=spec.name,
        version=spec.version,
        title=spec.title,
        documentation=spec.documentation,
        files=spec.files,
        converts_to=sorted(spec.converts_to),
        declares=sorted(spec.declares),
        reference=spec.reference,
    )


def _by_parameter(spec: PassSpec) -> ByParameterAnswer | None:
    if not isinstance(spec.produces, ByParameter):
        return None
    values = {str(value): precision for value, precision in spec.produces.values.items()}
    return ByParameterAnswer(param=spec.produces.param, values=values)


def _condition(need: ByParameter[Need | None] | WhereGiven[Need]) -> ConditionAnswer:
    if isinstance(need, WhereGiven):
        return ConditionAnswer(param=need.param, values=None)
    return ConditionAnswer(param=need.param, values=[value for value, one in need.values.items() if one])


def _pass(spec: PassSpec) -> PassAnswer:
    return PassAnswer(
        name=spec.name,
        version=spec.version,
        title=spec.title,
        documentation=inspect.cleandoc(spec.documentation),
        params=spec.params.model_json_schema(),
        consumes=sorted(spec.consumes),
        produces=None if isinstance(spec.produces, ByParameter) else spec.produces,
        produces_by=_by_parameter(spec),
        dialect=spec.dialect,
        formats=sorted(spec.formats),
        inputs={role: need_text(need) for role, need in spec.inputs.items()},
        inputs_where={
            role: _condition(need) for role, need in spec.inputs.items() if not isinstance(need, str)
        },
        over_2gb=spec.over_2gb,
    )


def _runtime(spec: RuntimeSpec) -> RuntimeAnswer:
    return RuntimeAnswer(
        name=spec.name,
        version=spec.version,
        title=spec.title,
        documentation=inspect.cleandoc(spec.documentation),
        params=spec.params.model_json_schema(),
        device=spec.device,
        formats=sorted(spec.formats),
        sparsity=spec.sparsity,
        preset=inspect.getdoc(spec.preset) or "",
    )


def _metric(spec: MetricSpec) -> MetricAnswer:
    return MetricAnswer(
        name=spec.name,
        title=spec.title,
        documentation=inspect.cleandoc(spec.documentation),
        unit=spec.unit,
        higher_is_better=spec.higher_is_better,
        needs_labels=spec.needs_labels,
        paired=spec.paired,
        low=spec.low,
        high=spec.high,
    )
