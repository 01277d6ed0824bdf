"""The steps that change a model: the recipe's passes, and the conversions between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.formats import FORMATS, way
from app.catalog.passes import PASSES
from app.catalog.spec import Params, PassSpec
from app.errors import UnsupportedFormat
from workers import passes
from workers.context import Aside, PassContext, Samples
from workers.conversion import convert, open_model
from workers.distributions import versions_of
from workers.formats import onnx
from workers.measure.environment import hardware_key
from workers.memory import KeptFolder
from workers.model_handle import ModelHandle
from workers.nodes.asking import AskedNodes
from workers.samples import synthetic_samples
from workers.steps import StepOutcome, Steps
from workers.timing import OnTarget

if TYPE_CHECKING:
    from workers.pipeline import Attempt

SYNTHETIC_CALIBRATION_SAMPLES = 64


@dataclass(frozen=True)
class Prepared:
    """A pass with all that it reads, and the key of its whole cause."""

    spec: PassSpec
    params: Params
    model: ModelHandle
    samples: dict[str, Samples]
    teacher: ModelHandle | None
    timing: OnTarget | None
    work: Path
    cause: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its step."""
        return f"pass:{self.spec.name}"

    @property
    def key(self) -> str:
        """Of its step."""
        return Steps.key_of(self.name, self.cause)


def prepared(attempt: "Attempt", number: int, step: Mapping[str, Any], model: ModelHandle) -> Prepared:
    """A pass of the recipe, ready to be done to a model."""
    spec = PASSES[step["pass"]]
    params = spec.params.model_validate(step["params"])
    model = taken(attempt, model, spec.formats)
    samples = pass_samples(attempt, spec, step)
    teacher = pass_teacher(attempt, spec, step)
    name = f"pass:{spec.name}"
    inputs = {role: sample_set.digest for role, sample_set in samples.items()}
    if teacher is not None:
        inputs["teacher"] = teacher.digest
    cause = {
        "version": spec.version,
        "params": params.model_dump(mode="json", exclude=set(spec.unkeyed)),
        "input": model.digest,
        "inputs": inputs,
        "seed": attempt.assignment.seed,
        "packages": versions_of(spec.packages),
        "hardware": hardware_key() if spec.by_machine(step["params"]) else None,
    }
    work_folder = attempt.assignment.scratch / "passes" / f"{number:02d}-{spec.name}"
    timing = OnTarget(attempt, model, name, work_folder / "timing") if spec.timed(step["params"]) else None
    if timing is not None:
        cause["target"] = timing.cause
    return Prepared(spec, params, model, samples, teacher, timing, work_folder, cause)


def run_pass(attempt: "Attempt", number: int, step: Mapping[str, Any], model: ModelHandle) -> ModelHandle:
    """One pass of the recipe, from the cache where its whole cause was seen before."""
    given = prepared(attempt, number, step, model)
    spec, name, key, work_folder = given.spec, given.name, given.key, given.work
    checkpoint = checkpoint_of(attempt, given)
    aside = work_folder / "aside"

    def work(out: Path) -> dict[str, Any]:
        aside.mkdir(parents=True)
        (work_folder / "work").mkdir()
        context = PassContext(
            out=out,
            seed=attempt.assignment.seed,
            samples=given.samples,
            teacher=given.teacher,
            timing=given.timing,
            device=attempt.device,
            checkpoint=checkpoint,
            checkpoint_seconds=attempt.assignment.checkpoint_seconds,
            memory_bytes=attempt.assignment.memory_bytes,
            aside=aside,
            work=work_folder / "work",
            nodes=AskedNodes(attempt, given, number),
            stored=lambda inner, why, do: attempt.steps.stored(inner, why, do).root,
            report=attempt.report(name),
        )
        handle = passes.registry.get(spec.name)(given.model, given.params, context)
        return {
            "entry": handle.entry,
            "format": handle.format,
            "warnings": context.warnings,
            "told": context.told,
            "details": context.facts,
        }

    outcome = attempt.steps.stored(name, given.cause, work)
    checkpoint.drop()
    keep_aside(attempt, spec, key, aside)
    attempt.warnings += [f"{spec.name}: {text}" for text in outcome.facts["warnings"]]
    for role, sample_set in given.samples.items():
        if sample_set.synthetic:
            attempt.warnings.append(
                f"{spec.name} used {sample_set.count} generated random samples for {role}: "
                "its ranges are guesses, and accuracy on real data may be far worse"
            )
    handle = handle_of(outcome)
    attempt.signature = narrowed(attempt.signature, handle)
    return handle


def checkpoint_of(attempt: "Attempt", given: Prepared) -> KeptFolder:
    """Where a pass is kept half done."""
    return KeptFolder(attempt.supervisor, f"checkpoint:{given.name}", given.key)


def keep_aside(attempt: "Attempt", spec: PassSpec, key: str, folder: Path) -> None:
    """Keep what a pass left besides its model beside the step, or take what it left when it was run."""
    name = f"pass:{spec.name}"
    aside = KeptFolder(attempt.supervisor, f"aside:{name}", key)
    if folder.is_dir():  # it was run now
        if any(folder.iterdir()):
            aside.keep(folder)
            attempt.asides.append(Aside(name, folder))
    elif spec.leaves_aside and (root := aside.last()) is not None:
        attempt.asides.append(Aside(name, root))


def narrowed(known: Mapping[str, Any], model: ModelHandle) -> Mapping[str, Any]:
    """A signature with the sizes of inputs that a pass has fixed: generated data must fit engine and original."""
    if model.format != onnx.FORMAT:
        return known
    fixed = {
        entry["name"]: entry["shape"] for entry in onnx.signature(model.load_onnx(weights=False))["inputs"]
    }
    inputs = [
        {
            **entry,
            "shape": [
                now if isinstance(now, int) else before
                for before, now in zip(entry["shape"], fixed.get(entry["name"], entry["shape"]), strict=True)
            ],
        }
        for entry in known["inputs"]
    ]
    return {**known, "inputs": inputs}


def taken(attempt: "Attempt", model: ModelHandle, formats: frozenset[str]) -> ModelHandle:
    """The model in a format that a pass or a runtime takes: as it is, or converted, which is a step of its own."""
    to = way(model.format, formats)
    if to is None:
        return model
    if (known := attempt.converted.get((model.digest, to))) is not None:
        return known
    spec = FORMATS[model.format]
    try:
        packages = versions_of(spec.packages)
    except PackageNotFoundError as error:
        raise UnsupportedFormat(
            f"this worker has no {error.name}, which a {spec.name} model needs",
            stage=f"convert:{to}",
            hint=f"install it on every worker that may get such jobs (the extra `{spec.name}` of this package), or upload ONNX",
        ) from None

    def work(out: Path) -> dict[str, Any]:
        made, facts = convert(open_model(model), to, out, attempt.assignment.seed)
        return {"entry": made.entry, "format": made.format, "conversion": facts}

    cause = {
        "format": spec.name,
        "version": spec.version,
        "input": model.digest,
        "declared": dict(model.declared),
        "seed": attempt.assignment.seed,
        "packages": packages,
    }
    outcome = attempt.steps.stored(f"convert:{to}", cause, work)
    found = outcome.facts["conversion"]
    if not found["checked"]:
        attempt.warnings.append(
            f"the conversion to {to} could not be compared with the original: {found['reason']}"
        )
    attempt.converted[model.digest, to] = handle_of(outcome)
    return attempt.converted[model.digest, to]


def handle_of(outcome: StepOutcome) -> ModelHandle:
    """The model that a stored step left."""
    return ModelHandle(outcome.root, outcome.facts["entry"], outcome.facts["format"], outcome.digest)


def pass_teacher(attempt: "Attempt", spec: PassSpec, step: Mapping[str, Any]) -> ModelHandle | None:
    """The network that a pass learns from, where it learns from one: what the recipe names, else the job's subject."""
    if "teacher" not in spec.inputs:
        return None
    given = step.get("inputs", {}).get("teacher")
    named = attempt.assignment.subject if given is None else attempt.assignment.teachers[given]
    return named.handle()


def pass_samples(attempt: "Attempt", spec: PassSpec, step: Mapping[str, Any]) -> dict[str, Samples]:
    """The data that a pass reads, by role; generated where the recipe names none and the request allowed that."""
    found: dict[str, Samples] = {}
    for role, need in spec.needs(step["params"]).items():
        if role == "teacher":
            continue
        if (given := step.get("inputs", {}).get(role)) is not None:
            found[role] = attempt.dataset(given)
        elif need == "required-or-synthetic":
            found[role] = synthetic_samples(
                attempt.signature, attempt.assignment.seed, SYNTHETIC_CALIBRATION_SAMPLES
            )
    return found
