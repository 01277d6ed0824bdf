"""Recipes as plain data: validated against catalog, model and datasets before anything is queued. Pure."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.catalog.evaluation import with_bound
from app.catalog.formats import way
from app.catalog.passes import PASSES
from app.catalog.recipe_data import DatasetFacts as DatasetFacts
from app.catalog.recipe_data import Options, check_dataset, check_inputs, listed
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import (
    PROTOBUF_LIMIT_BYTES,
    InputRole,
    ModelFacts,
    Params,
    PassSpec,
    Precision,
    PresetContext,
    RuntimeSpec,
)
from app.errors import IncompatibleRecipe, InvalidParams, UnknownPass
from app.text import fault

ERRORS_SHOWN = 20
CONVERTIBLE = frozenset({"fp32", "fp16", "bf16"})  # what a conversion between formats keeps as it is


class RecipeStep(BaseModel):
    """One pass with its parameters and the data that it reads. A stored step pins the pass's version."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    name: str = Field(alias="pass", description="The pass's name in `GET /v1/passes`.")
    params: dict[str, Any] = Field(
        default_factory=dict, description="The pass's parameters; absent ones take their defaults."
    )
    inputs: dict[InputRole, str] = Field(
        default_factory=dict,
        description="Ids by role: datasets as calibration, train and validation, a model or an artifact as teacher.",
    )
    version: int | None = Field(
        default=None, description="The pass's version. Absent: the current one, which the job then pins."
    )


class Recipe(BaseModel):
    """An ordered list of passes: a person can read it, store it and send it again."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_: Literal[1] = Field(default=1, alias="schema", description="The recipe format's version.")
    passes: list[RecipeStep] = Field(max_length=100, description="What is done to the model, in order.")
    notes: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="Why a preset chose these passes. Read by people alone: it changes nothing.",
    )


def is_dataset(id_: str) -> bool:
    """Whether an id is a dataset's: a teacher is a model or an artifact."""
    return id_.startswith("dat_")


class Target(BaseModel):
    """Where the engine runs: a runtime and its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: str = Field(description="The runtime's name in `GET /v1/runtimes`.")
    params: dict[str, Any] = Field(
        default_factory=dict, description="The runtime's parameters; absent ones take their defaults."
    )


class Evaluation(Protocol):
    """The part of a job's `evaluation` that matters here."""

    @property
    def dataset(self) -> str: ...


def step_key(cause: Mapping[str, Any]) -> str:
    """The SHA-256, in hex, of a step's whole cause as canonical JSON (sorted keys, no spaces, UTF-8).

    Raises:
        ValueError, TypeError: the cause holds something that JSON cannot say.
    """
    text = json.dumps(cause, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def validate_target(target: Target, at: str = "targets[0]") -> Target:
    """The target with every parameter filled in. `at` is its place in the request.

    Raises:
        InvalidParams: there is no such runtime, or its parameters are not valid.
    """
    spec = _runtime_of(target, at)
    return target.model_copy(update={"params": _validated(spec.params, target.params, f"{at}.params")})


def plan(
    recipe: Recipe | None,
    model: ModelFacts,
    target: Target,
    datasets: Mapping[str, DatasetFacts],
    evaluation: Evaluation | None,
    options: Options,
    *,
    teachers: Mapping[str, ModelFacts] | None = None,
    calibration_hint: str | None = None,
    at: str = "targets[0]",
) -> Recipe:
    """The recipe that a job will follow: defaults filled in, versions pinned; the target's preset where none is given.

    `datasets` and `teachers` hold what the request names, by id. `calibration_hint` is the dataset that a preset may calibrate
    with; a recipe that is given names its data itself. `at` is the target's place in the request.

    Raises:
        UnknownPass: a step names a pass that is not in the catalog.
        InvalidParams: a parameter or an input is not valid; `param` is its path in the request.
        IncompatibleRecipe: passes, model and target do not fit each other.
        SignatureMismatch: a dataset does not fit the model's inputs.
    """
    runtime = _runtime_of(target, at)
    if recipe is None:
        recipe = _preset(runtime, model, calibration_hint, options)
    steps: list[RecipeStep] = []
    precision: Precision = model.precision
    form = model.format
    dialect: str | None = None
    for index, step in enumerate(recipe.passes):
        path = f"recipe.passes[{index}]"
        spec = _pass_of(step, path)
        form = _taken(spec.name, spec.formats, form, precision, model, f"{path}.pass")
        _check_fit(spec, model, precision, steps, path)
        _check_dialect(spec.name, spec.dialects, dialect, steps, f"{path}.pass")
        params = _validated(spec.params, step.params, f"{path}.params")
        check_inputs(spec, step.inputs, spec.needs(params), model, datasets, teachers or {}, options, path)
        labels = {id_: dataset.labels for id_, dataset in datasets.items()}
        params = with_bound(spec, params, labels, step.inputs, model, path)
        steps.append(step.model_copy(update={"params": params, "version": spec.version}))
        precision = spec.produced(params) or precision
        form = spec.leaves or form
        dialect = spec.dialect or dialect
    _check_dialect(runtime.name, runtime.dialects, dialect, steps, f"{at}.runtime")
    _taken(f"the runtime {runtime.name}", runtime.formats, form, precision, model, f"{at}.runtime")
    if evaluation is not None:
        check_dataset(evaluation.dataset, datasets, model.inputs, "evaluation.dataset")
    return recipe.model_copy(update={"passes": steps})


def _preset(runtime: RuntimeSpec, model: ModelFacts, calibration: str | None, options: Options) -> Recipe:
    choice = runtime.preset(PresetContext(model, calibration, options.allow_synthetic))
    return Recipe(
        passes=[RecipeStep.model_validate(step) for step in choice.passes], notes=list(choice.reasons)
    )


def _runtime_of(target: Target, at: str) -> RuntimeSpec:
    if target.runtime not in RUNTIMES:
        raise InvalidParams(
            f"there is no runtime called {target.runtime!r}",
            param=f"{at}.runtime",
            hint=_suggestion(target.runtime, RUNTIMES),
        )
    return RUNTIMES[target.runtime]


def _pass_of(step: RecipeStep, path: str) -> PassSpec:
    if step.name not in PASSES:
        raise UnknownPass(
            f"there is no pass called {step.name!r}",
            param=f"{path}.pass",
            hint=_suggestion(step.name, PASSES),
        )
    spec = PASSES[step.name]
    if step.version is not None and step.version != spec.version:
        raise IncompatibleRecipe(
            f"the recipe pins version {step.version} of {spec.name}, this service has version {spec.version}",
            param=f"{path}.version",
            hint="remove `version` to use the current one; its results may differ",
        )
    return spec


def _taken(
    who: str, taken: frozenset[str], form: str, precision: Precision, model: ModelFacts, path: str
) -> str:
    """The format in which a pass or a runtime gets a model that is in the format `form`: the same, or one it becomes."""
    try:
        becomes = way(form, taken)
    except LookupError:
        raise IncompatibleRecipe(
            f"{who} does not take {form} models, and they cannot become what it takes",
            param=path,
            hint=f"it takes {listed(taken)}: export the network so where it was made, or choose another target",
        ) from None
    if becomes is None:
        return form
    if precision not in CONVERTIBLE:
        raise IncompatibleRecipe(
            f"{who} takes {listed(taken)}; a {precision} model in {form} does not become that",
            param=path,
            hint=f"do what makes it {precision} in a pass that works on {listed(taken)}, or choose another target",
        )
    tried = model.conversions.get(becomes, {}) if form == model.format else {}
    if problem := tried.get("problem"):
        raise IncompatibleRecipe(
            f"{who} takes {listed(taken)}, and the model does not become {becomes}: {problem['detail']}",
            param=path,
            hint=problem.get("hint"),
            errors=[problem],
        )
    return becomes


def _check_fit(
    spec: PassSpec, model: ModelFacts, precision: Precision, before: list[RecipeStep], path: str
) -> None:
    if precision not in spec.consumes:
        makers = [step.name for step in before if PASSES[step.name].produces is not None]
        origin = f"after {makers[-1]} it is" if makers else "it is"
        raise IncompatibleRecipe(
            f"{spec.name} takes {listed(spec.consumes)} models, but {origin} {precision}",
            param=f"{path}.pass",
            hint=f"remove {makers[-1]} or {spec.name}" if makers else "upload the model in fp32",
        )
    if model.size_bytes > PROTOBUF_LIMIT_BYTES and not spec.over_2gb:
        able = [name for name, other in PASSES.items() if other.over_2gb]
        raise IncompatibleRecipe(
            f"{spec.name} cannot work on a model over 2 GB; this one has {model.size_bytes} bytes",
            param=f"{path}.pass",
            hint=f"these passes can: {', '.join(able)}",
        )


def _check_dialect(
    who: str, known: frozenset[str], dialect: str | None, before: list[RecipeStep], path: str
) -> None:
    if dialect is None or dialect in known:
        return
    makers = [step.name for step in before if PASSES[step.name].dialect == dialect]
    speakers = [runtime.name for runtime in RUNTIMES.values() if dialect in runtime.dialects]
    raise IncompatibleRecipe(
        f"after {makers[-1]} the model has operators of {dialect} alone, which {who} does not know",
        param=path,
        hint=f"remove {makers[-1]}, put it last, or choose one of these runtimes: {listed(speakers)}",
    )


def _validated(params: type[Params], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    try:
        return params.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        errors = [
            {"param": _path(path, item["loc"]), "detail": fault(item["msg"])}
            for item in error.errors(include_url=False, include_input=False)[:ERRORS_SHOWN]
        ]
        first = error.errors(include_url=False, include_input=False)[0]
        hint = None
        if first["type"] == "extra_forbidden":
            hint = _suggestion(str(first["loc"][-1]), params.model_fields)
        raise InvalidParams(
            f"{errors[0]['param']}: {errors[0]['detail']}", param=errors[0]["param"], hint=hint, errors=errors
        ) from None


def _path(prefix: str, loc: Iterable[str | int]) -> str:
    return prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {listed(names)}" if names else "there are none"
