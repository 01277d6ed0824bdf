"""What would help: the rules of `workers.profiling.advice`, asked about one profile.

A rule is a pure function of a case. What it finds is held against the catalog before anybody sees it: a request that the service
would refuse is left out, and the advice says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from app.catalog.passes import PASSES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan, validate_target
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts, Precision, PresetContext
from app.errors import BurnishError
from app.profiles.schemas import Advice, Gain, Layer, Profile
from workers.profiling.layer_kinds import LayerKind, kind_of

Request = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A piece of advice without its number, see `app.profiles.schemas.Advice`. `layers` are places in the profile."""

    title: str
    why: str
    evidence: dict[str, Any]
    layers: Sequence[int] = ()
    gain: Gain | None = None
    costs_accuracy: bool = False
    request: Request | None = None


@dataclass(frozen=True)
class Case:
    """What rules may look at.

    `model` is the subject, None where it is a built engine, which no pass can change. `structure` has the layers of its inspection by
    name. `recipe` are the passes that were done before the engine was built, `engine` the facts of its build. `data` are datasets of
    the job by role. `offered` are runtimes that this machine has. `threads` and `batches` are latencies {p50_ms, low_ms, high_ms} of
    the same engine with other numbers of them, where somebody measured.
    """

    profile: Profile
    model: ModelFacts | None = None
    structure: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe: Sequence[Mapping[str, Any]] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    offered: frozenset[str] = frozenset()
    threads: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    batches: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def runtime(self) -> str:
        """The runtime's name."""
        name: str = self.profile.target["runtime"]
        return name

    @property
    def params(self) -> dict[str, Any]:
        """The runtime's parameters, all of them."""
        found = RUNTIMES[self.runtime].params.model_validate(self.profile.target["params"])
        return found.model_dump(mode="json")

    @property
    def device(self) -> str:
        """The kind of device."""
        return RUNTIMES[self.runtime].device

    @property
    def layers(self) -> list[Layer]:
        """The rows of the profile."""
        return self.profile.layers

    @cached_property
    def kinds(self) -> list[LayerKind]:
        """What each row computes, as far as advice cares."""
        return [kind_of(layer, self.structure) for layer in self.layers]

    @cached_property
    def precision(self) -> Precision | None:
        """What the model is in after the recipe; None where nobody can tell."""
        if self.model is None:
            return None
        left = self.model.precision
        for step in self.recipe:
            spec = PASSES[step["pass"]]
            left = spec.produced(spec.params.model_validate(step["params"]).model_dump(mode="json")) or left
        return left

    def peak(self, precision: str) -> float:
        """How many times faster than fp32 the device multiplies in a precision; 0 where it does not, or nobody measured."""
        peaks = self.profile.peaks
        if peaks is None or "fp32" not in peaks.flops_per_s:
            return 0.0
        return peaks.flops_per_s.get(precision, 0.0) / peaks.flops_per_s["fp32"]

    def share(self, places: Sequence[int]) -> float:
        """The share of all layers' time that some take."""
        return sum(self.layers[place].share for place in places)

    @cached_property
    def reached(self) -> float:
        """The share of their floors' rate that layers which multiply over many channels reach here, all together; 1 where none is."""
        dense = [layer for layer, kind in zip(self.layers, self.kinds, strict=True) if kind.dense]
        spent = sum(layer.mean_ms for layer in dense if layer.floor_ms is not None)
        return sum(layer.floor_ms or 0.0 for layer in dense) / spent if spent else 1.0

    def preset_passes(self) -> list[dict[str, Any]]:
        """What the target's preset would do to the model, where generated data are allowed to stand in for the user's."""
        if self.model is None:
            return []
        context = PresetContext(self.model, self.data.get("calibration"), allow_synthetic=True)
        return RUNTIMES[self.runtime].preset(context).passes

    def request(
        self,
        passes: Sequence[Mapping[str, Any]] = (),
        *,
        params: Mapping[str, Any] | None = None,
        runtime: str | None = None,
        changed: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Request | None:
        """The job that does these passes too, with these parameters of the runtime changed, or on another one.

        Passes that are done already are not done again; `changed` are parameters of theirs that differ, by pass. None for a built
        engine.
        """
        if self.model is None:
            return None
        done = [_again(step, (changed or {}).get(step["pass"], {})) for step in self.recipe]
        steps = [*done, *(dict(step) for step in passes if step["pass"] not in {one["pass"] for one in done})]
        kept = dict(self.params) if runtime is None else _carried(self.params, runtime)
        request: Request = {
            "kind": "optimize",
            "subject": self.profile.subject["id"],
            "recipe": {"schema": 1, "passes": steps},
            "targets": [{"runtime": runtime or self.runtime, "params": {**kept, **(params or {})}}],
        }
        if any(_generated(step) for step in steps):
            request["options"] = {"allow_synthetic": True}
        return request


def advise(case: Case) -> list[Advice]:
    """All that the rules find, the largest gain first; what has none to tell comes last."""
    from workers.profiling.advice import registry

    found = [
        (name, _checked(case, finding)) for name, rule in registry.all().items() for finding in rule(case)
    ]
    found.sort(key=lambda one: (-(one[1].gain.value if one[1].gain else 0.0), one[0], one[1].title))
    return [_advice(case, number, name, finding) for number, (name, finding) in enumerate(found, start=1)]


def _advice(case: Case, number: int, rule: str, finding: Finding) -> Advice:
    named = dict.fromkeys(name for place in finding.layers for name in case.layers[place].layers)
    return Advice(
        number=number,
        rule=rule,
        title=finding.title,
        why=finding.why,
        evidence=finding.evidence,
        layers=list(named),
        gain=finding.gain,
        costs_accuracy=finding.costs_accuracy,
        request=finding.request,
    )


def _checked(case: Case, finding: Finding) -> Finding:
    """A finding whose request the service would take."""
    if finding.request is None:
        return finding if case.model is not None else replace(finding, why=f"{finding.why} {_BUILT}")
    try:
        check(finding.request, case.model)
    except BurnishError as error:
        refused = f"No job can try it: {error.detail}."
        return replace(finding, request=None, why=f"{finding.why} {refused}")
    if finding.request.get("options", {}).get("allow_synthetic"):
        return replace(finding, why=f"{finding.why} {_GENERATED}")
    return finding


_BUILT = "This is a built engine: profile or optimize the model that it was made from to try it."
_GENERATED = (
    "No calibration data were given, so the job takes ranges from generated data: right for its speed, a guess for its accuracy; "
    "give some with `--dataset`."
)


def check(request: Request, model: ModelFacts | None) -> None:
    """Hold a request against the catalog, as submitting it does; its data are taken to fit the model.

    Raises:
        BurnishError: it would be refused.
    """
    assert model is not None
    recipe = Recipe.model_validate(request["recipe"])
    shapes = {
        entry["name"]: {"dtype": entry["dtype"], "shape": list(entry["shape"][1:])} for entry in model.inputs
    }
    named = {id_ for step in recipe.passes for role, id_ in step.inputs.items() if role != "teacher"}
    teachers = {id_ for step in recipe.passes for role, id_ in step.inputs.items() if role == "teacher"}
    target = validate_target(Target.model_validate(request["targets"][0]))
    plan(
        recipe,
        model,
        target,
        {id_: DatasetFacts(id_, "", 1, shapes, None) for id_ in named},
        None,
        _Options(bool(request.get("options", {}).get("allow_synthetic"))),
        teachers=dict.fromkeys(teachers, model),
    )


@dataclass(frozen=True)
class _Options:
    allow_synthetic: bool


def _again(step: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A step of the recipe as a request has it."""
    kept = {key: step[key] for key in ("pass", "params", "inputs") if step.get(key)}
    return {**kept, "params": {**step.get("params", {}), **changed}} if changed else kept


def _generated(step: Mapping[str, Any]) -> bool:
    """Whether a pass needs calibration data and names none."""
    spec = PASSES[step["pass"]]
    needs = spec.needs(spec.params.model_validate(step.get("params", {})).model_dump(mode="json"))
    return any(
        need == "required-or-synthetic" and role not in step.get("inputs", {}) for role, need in needs.items()
    )


def _carried(params: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    """Parameters that mean the same on another runtime."""
    known = RUNTIMES[runtime].params.model_fields
    return {name: params[name] for name in ("threads",) if name in params and name in known}
