"""From a finished measurement to artifacts: the engine's bundle and other forms, the report, the optimized model."""

import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import app
from app.catalog.passes import PASSES
from app.catalog.spec import Params, RuntimeSpec
from app.errors import UnsupportedFormat
from app.reports.schemas import Report
from app.storage.disk import link_or_copy
from workers import runtimes
from workers.assignment import JobAssignment
from workers.bundle.build import lay_out, pack, write_manifest
from workers.bundle.companions import COMPANIONS, copy_companions
from workers.bundle.forms.write import write_form
from workers.bundle.licences import licences
from workers.bundle.proof import Proof, of_engines
from workers.bundle.samples import sample_feeds, write_samples
from workers.context import Aside, Samples
from workers.model_handle import ModelHandle
from workers.reporting.distribution import Runs
from workers.reporting.document import document
from workers.reporting.write import write_report
from workers.runtimes.base import Engine
from workers.samples import synthetic_samples
from workers.steps import StepOutcome, Supervisor

SUFFIXES = (
    ".zip",
    ".tar",
    ".onnx",
    ".pt2",
    ".pt",
    ".pth",
    ".jit",
    ".keras",
    ".h5",
    ".safetensors",
)  # of uploads
MEDIA_ZIP = "application/zip"
MEDIA_ONNX = "application/octet-stream"


@dataclass(frozen=True)
class Built:
    """What the attempt made, and what it was measured on; `proof` where the engines cannot be loaded here."""

    original: ModelHandle
    optimized: ModelHandle
    baseline_engine: Engine
    engine: Engine
    samples: Samples
    proof: Proof | None = None


def package(
    assignment: JobAssignment,
    runtime: RuntimeSpec,
    params: Params,
    built: Built,
    steps: list[StepOutcome],
    result: dict[str, Any],
    machine: Mapping[str, Any],
    supervisor: Supervisor,
    asides: Sequence[Aside] = (),
    measurements: Sequence[Mapping[str, Any]] = (),
    runs_ns: Mapping[str, Runs] | None = None,
) -> list[dict[str, Any]]:
    """Write every artifact below the attempt's scratch; the answer is `artifacts` of `protocol.py`. The supervisor signs.

    `measurements` and `runs_ns`, the timed runs, are what `measure.session` answers.
    """

    def sign(text: str) -> str | None:
        signature: str | None = supervisor.ask("sign", manifest=text)["signature"]
        return signature

    folder = assignment.scratch / "bundle"
    folder.mkdir()
    entry = lay_out(folder, built.engine)
    companions = copy_companions(built.original, assignment.subject.facts.get(COMPANIONS, []), folder)
    implementation = runtimes.registry.alone(runtime.name)
    proof = built.proof or of_engines(
        runtime, params, built.baseline_engine, built.engine, assignment.subject.signature
    )
    seeded = synthetic_samples(proof.generated, assignment.seed, 1)
    feeds, source = sample_feeds(proof.engine, [seeded, built.samples])
    described = (
        {"seed": assignment.seed, "dataset": None}
        if source.synthetic
        else {"seed": None, "dataset": source.digest}
    )
    requires = {**implementation.versions(), "numpy": version("numpy")}
    created_at, versions = datetime.now(UTC), versions_of(implementation.versions())
    manifest = write_manifest(
        folder,
        {
            "schema": 1,
            "created_at": created_at.isoformat(timespec="seconds"),
            "job": assignment.job_id,
            "model": {
                "id": assignment.subject.id,
                "name": assignment.subject.name,
                "digest": assignment.subject.digest,
                "format": assignment.subject.format,
            },
            "datasets": dataset_roles(assignment),
            "recipe": assignment.recipe,
            "target": {"runtime": runtime.name, "params": params.model_dump(mode="json")},
            "engine": {"entry": entry, "facts": built.engine.facts},
            "companions": companions,
            "signature": dict(proof.signature),
            "validity": implementation.validity(built.engine, params),
            "requires": requires,
            "licences": licences(built.original, assignment.subject.license, requires, folder),
            "steps": [
                {
                    "name": step.name,
                    "key": step.key,
                    "cached": step.cached,
                    "seconds": step.seconds,
                    "told": step.facts.get("told", []),
                }
                for step in steps
            ],
            "versions": versions,
            "machine": dict(machine),
            "result": result,
            "samples": write_samples(
                folder, proof.baseline, proof.engine, feeds, described, proof.least_tolerance
            ),
        },
        sign,
    )
    lineage = lineage_of(assignment)
    engine_zip = pack(folder, assignment.scratch / f"{stem(assignment)}-{runtime.name}.zip")
    artifacts = [artifact("engine", engine_zip, MEDIA_ZIP, manifest, lineage)]
    for form in assignment.options.get("package", []):
        name = f"{stem(assignment)}-{runtime.name}"
        try:
            packed = write_form(form, folder, manifest, assignment.scratch, name, sign)
        except UnsupportedFormat as error:  # the engine is worth more than one of its forms
            result["warnings"].append(f"there is no package for {form}: {error.detail}")
        else:
            said = {"schema": manifest["schema"], "package": form}
            artifacts.append({**artifact("package", packed, MEDIA_ZIP, said, lineage), "role": form})
    report = document(
        assignment,
        created_at=created_at,
        datasets=dataset_roles(assignment),
        result=result,
        steps=steps,
        measurements=measurements,
        runs_ns=runs_ns,
        machine=machine,
        versions=versions,
    )
    artifacts += report_artifacts(assignment, report, lineage, runs_ns)
    artifacts += [
        aside_artifact(assignment, number, aside, lineage) for number, aside in enumerate(asides, start=1)
    ]
    if built.optimized.digest != built.original.digest:
        artifacts.append(model_artifact(assignment, built.optimized, lineage))
    return artifacts


def versions_of(libraries: Mapping[str, str]) -> dict[str, str]:
    """What was at work: Burnish, Python, and a runtime's libraries."""
    return {"burnish": app.__version__, "python": platform.python_version(), **libraries}


def report_artifacts(
    assignment: JobAssignment,
    report: Report,
    lineage: list[dict[str, Any]],
    runs_ns: Mapping[str, Runs] | None,
) -> list[dict[str, Any]]:
    """The report in every form, and the timed runs."""
    files = write_report(report, assignment.scratch, runs_ns)
    return [
        {**artifact("report", path, media_type, None, lineage), "role": role}
        for role, (path, media_type) in files.items()
    ]


def artifact(
    kind: str, path: Path, media_type: str, manifest: dict[str, Any] | None, lineage: list[dict[str, Any]]
) -> dict[str, Any]:
    """One artifact; the job's result shows its id under its kind."""
    return {
        "role": kind,
        "kind": kind,
        "filename": path.name,
        "media_type": media_type,
        "path": str(path),
        "manifest": manifest,
        "inputs": lineage,
        "tree_digest": None,
    }


def aside_artifact(
    assignment: JobAssignment, number: int, aside: Aside, lineage: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a pass left besides the model: its files in a `.zip`."""
    name = aside.step.removeprefix("pass:")
    target = assignment.scratch / f"{stem(assignment)}-{number}-{name}.zip"
    _zip(aside.root, target)
    said = {"schema": 1, "step": aside.step}
    return {**artifact("training", target, MEDIA_ZIP, said, lineage), "role": f"training-{number}-{name}"}


def model_artifact(
    assignment: JobAssignment, model: ModelHandle, lineage: list[dict[str, Any]]
) -> dict[str, Any]:
    """The optimized model before it became an engine, as another job can start from it."""
    from workers.formats.describe import describe_made

    described = describe_made(model, precision_of(assignment))
    files = sorted(path for path in model.root.rglob("*") if path.is_file())
    name = f"{stem(assignment)}-optimized"
    if len(files) == 1:
        target, media_type = assignment.scratch / f"{name}{files[0].suffix}", MEDIA_ONNX
        link_or_copy(files[0], target)
    else:
        target, media_type = assignment.scratch / f"{name}.zip", MEDIA_ZIP
        _zip(model.root, target)
    manifest = {"name": name, "format": model.format, "license": assignment.subject.license, **described}
    return {**artifact("model", target, media_type, manifest, lineage), "tree_digest": model.digest}


def _zip(root: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(root))


def precision_of(assignment: JobAssignment) -> str:
    """The precision that the recipe leaves."""
    made = [PASSES[step["pass"]].produced(step["params"]) for step in assignment.recipe["passes"]]
    return next((one for one in reversed(made) if one), assignment.subject.facts["precision"])


def stem(assignment: JobAssignment) -> str:
    """The model's name as the start of a file name."""
    plain = "".join(
        letter if letter.isalnum() or letter in "-_." else "-" for letter in assignment.subject.name
    )
    for suffix in SUFFIXES:
        plain = plain.removesuffix(suffix)
    return plain.strip("-.")[:80] or "model"


def dataset_roles(assignment: JobAssignment) -> list[dict[str, Any]]:
    """Every dataset that the job read, and every teacher, with the role that it had."""
    named = [
        {"id": id_, "role": role}
        for step in assignment.recipe["passes"]
        for role, id_ in step.get("inputs", {}).items()
    ]
    if assignment.evaluation:
        named.append({"id": assignment.evaluation["dataset"], "role": "evaluation"})
    if assignment.data is not None:
        named.append({"id": assignment.data, "role": "data"})
    unique = {(entry["id"], entry["role"]): entry for entry in named}
    digests = {
        id_: files.digest
        for read in (assignment.datasets, assignment.teachers)
        for id_, files in read.items()
    }
    return [{**entry, "digest": digests[entry["id"]]} for entry in unique.values()]


def lineage_of(assignment: JobAssignment) -> list[dict[str, Any]]:
    """What the artifacts were made from: role, id and digest of each."""
    subject = {"role": "subject", "id": assignment.subject.id, "digest": assignment.subject.digest}
    return [subject, *dataset_roles(assignment)]
