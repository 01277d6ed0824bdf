"""One attempt of a `profile` job: the engine, its latency without a profiler, its profile, and what that says."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.spec import ModelFacts
from app.jobs.looking import ProfileSettings
from app.jobs.subjects import ENGINE
from app.profiles.schemas import Peaks, Profile
from workers import runtimes
from workers.assignment import JobAssignment, SubjectFiles
from workers.bundle.package import artifact, dataset_roles, lineage_of, report_artifacts, stem, versions_of
from workers.context import Feeds
from workers.looking import Seen, engine_of, feeds_of, written
from workers.measure.environment import machine
from workers.measure.feeds_file import save_feeds
from workers.measure.launched import EngineUnderTest, Launched
from workers.measure.single import time_alone
from workers.memory import StepMemory
from workers.model_handle import ModelHandle
from workers.offered import offered, without_absent
from workers.profiling.advising import Case, advise
from workers.profiling.costs import priced, read_if_possible
from workers.profiling.launch import RECORDED
from workers.profiling.origin import layers_by_row, layers_of, with_sources
from workers.profiling.peaks import peaks_of
from workers.profiling.profilers import registry
from workers.profiling.recorded import Instrumenting, Made, Recorded, as_layers, read_recorded
from workers.profiling.roofline import above_peak, explained
from workers.profiling.varied import MOST_MS, Times, by_batch, by_threads
from workers.reporting.document import document
from workers.steps import Steps, Supervisor
from workers.timing import alone

if TYPE_CHECKING:
    from workers.pipeline import Attempt

COMMAND = "workers.profiling.launch"
MEDIA_JSON = "application/json"
LATENCY_SHARE = 0.5  # of the seconds that a job's measuring takes: nothing is compared
GAP = 0.1  # of the latency without a profiler, by which the layers' sum may be off unexplained
SHOWN = 10  # layers in the job's result; the artifact has all


@dataclass(frozen=True)
class Looked:
    """What was seen of an engine, before anything is said of it."""

    seen: Seen
    feeds: list[Feeds]
    batch: int
    timed: dict[str, Any]  # see `time_alone`
    recorded: Recorded
    peaks: Peaks | None
    threads: Times  # latencies with other numbers of them
    batches: Times


def profile(assignment: JobAssignment, supervisor: Supervisor) -> dict[str, Any]:
    """Do the job; the answer is the `result` of `protocol.py`.

    Raises:
        BurnishError: anything that the user can act on, naming stage and cause.
    """
    from workers.pipeline import Attempt

    attempt = Attempt(assignment, supervisor, Steps(supervisor, assignment.scratch))
    settings = ProfileSettings.model_validate(assignment.asked)
    looked = None
    if settings.of == "training":
        from workers.profiling.training_job import profile_last_pass

        made = profile_last_pass(attempt, settings)
    else:
        looked = look(attempt, settings)
        made = Made(profile_of(attempt, looked), looked.recorded.traces, {"engine": looked.timed["runs_ns"]})
    if settings.advise:
        made.profile.advice = advise(_case(attempt, made.profile, looked))
    traces = [trace for trace in made.traces if trace.kind == "runtime" or trace.kind in settings.traces]
    made = replace(made, traces=traces)
    result = {"profile": summary(made.profile), "warnings": attempt.warnings}
    return {
        "result": result,
        "artifacts": attempt.steps.fresh("packaging", lambda: artifacts(attempt, made, result)),
        "measurements": [],
    }


def look(attempt: "Attempt", settings: ProfileSettings) -> Looked:
    """Build the engine, time it without a profiler, then run it with its profiler, alone on the device."""
    seen = engine_of(attempt)
    feeds, batch = feeds_of(attempt, seen, settings.batch)
    folder = attempt.assignment.scratch / "profiling"
    folder.mkdir(parents=True)
    save_feeds(folder / "feeds.npz", feeds)
    profiled = instrumented(attempt, seen, folder)
    with alone(attempt.supervisor, seen.runtime.device, [seen.engine.root]):
        timed = attempt.steps.fresh(
            "measuring",
            lambda: time_alone(
                seen.under_test,
                folder / "feeds.npz",
                folder / "latency",
                batch=batch,
                launches=attempt.assignment.measure_launches,
                seconds=LATENCY_SHARE * attempt.assignment.measure_seconds,
                seed=attempt.assignment.seed,
                report=attempt.report("measuring"),
            ),
        )
        recorded = attempt.steps.fresh(
            "profiling", lambda: record(profiled, folder, timed["pinned_cpus"], settings.seconds)
        )
        peaks: Peaks | None = None
        threads: Times = {}
        batches: Times = {}
        now_ms = timed["latency"]["p50_ms"]
        if settings.advise:
            peaks = attempt.steps.fresh("peaks", lambda: _peaks(attempt, seen, folder, timed, recorded))
        if settings.advise and now_ms < MOST_MS:
            threads, batches = attempt.steps.fresh(
                "varying",
                lambda: (
                    by_threads(attempt, seen, folder / "feeds.npz", folder / "threads", batch),
                    by_batch(attempt, seen, now_ms, folder / "batches", batch),
                ),
            )
    return Looked(seen, feeds, batch, timed, recorded, peaks, threads, batches)


def _case(attempt: "Attempt", found: Profile, looked: Looked | None) -> Case:
    """What rules may look at; of a training there is no engine."""
    assignment = attempt.assignment
    subject = assignment.subject
    built = subject.format == ENGINE
    roles = {
        role: id_ for step in assignment.recipe["passes"] for role, id_ in step.get("inputs", {}).items()
    }
    return Case(
        profile=found,
        model=None if built else facts_of(subject),
        structure={layer["name"]: layer for layer in subject.structure.get("layers", ())},
        recipe=assignment.recipe["passes"],
        engine=looked.seen.engine.facts if looked else {},
        data={**roles, **assignment.inputs},
        offered=frozenset(without_absent(offered())),
        threads=looked.threads if looked else {},
        batches=looked.batches if looked else {},
    )


def facts_of(subject: SubjectFiles) -> ModelFacts:
    """What validation and presets know of a model, as the service has it (`Subject.model_facts`)."""
    facts = subject.facts
    return ModelFacts(
        format=subject.format,
        precision=facts["precision"],
        operators=facts["operators"],
        size_bytes=facts["size_bytes"],
        inputs=tuple(subject.signature["inputs"]),
        outputs=tuple(subject.signature["outputs"]),
        control_flow=facts.get("control_flow", {}),
        conversions=facts.get("conversions", {}),
        coverage=facts.get("coverage", {}),
    )


def _peaks(
    attempt: "Attempt", seen: Seen, folder: Path, timed: dict[str, Any], recorded: Recorded
) -> Peaks | None:
    memory = StepMemory(attempt.supervisor, attempt.assignment.scratch)
    return peaks_of(seen.under_test, timed["pinned_cpus"], folder / "peaks", memory, recorded.notes)


def instrumented(attempt: "Attempt", seen: Seen, folder: Path) -> EngineUnderTest:
    """What the profiler runs: the engine itself, or another one that was built of the same model to be looked into."""
    profiler, source = registry.alone(seen.runtime.name), seen.source
    if source is None or not isinstance(profiler, Instrumenting):
        return seen.under_test
    out = folder / "instrumented"
    out.mkdir()
    engine = attempt.steps.fresh(
        "build:instrumented", lambda: profiler.instrumented(source, seen.params, out)
    )
    return EngineUnderTest(seen.runtime.name, engine.root, engine.entry, seen.params.model_dump(mode="json"))


def record(engine: EngineUnderTest, folder: Path, cpus: list[int], seconds: float) -> Recorded:
    """Run the engine with its profiler, in a process of its own."""
    out = folder / "recorded"
    out.mkdir()
    command = (sys.executable, "-P", "-m", COMMAND)
    with Launched(engine, folder / "feeds.npz", cpus, folder, command) as process:
        process.wait_ready()
        process.tell("profile", seconds=seconds, out=str(out))
    return read_recorded(out / RECORDED)


def profile_of(attempt: "Attempt", looked: Looked) -> Profile:
    """What the profiler saw, in the terms of the model that was uploaded."""
    assignment, seen, recorded = attempt.assignment, looked.seen, looked.recorded
    original = _original(assignment)
    source = seen.source or original
    model = read_if_possible(source, looked.feeds[0], recorded.notes)
    rows, costs = priced(with_sources(recorded.rows, seen.engine, source), model)
    known = layers_of(source, original, seen.between) if source and original else {}
    total = sum(row.mean_ms for row in rows)
    layers = as_layers(rows, layers_by_row(rows, known))
    if looked.peaks is not None:
        layers = explained(layers, costs, looked.peaks)
        if (told := above_peak(layers)) is not None:
            recorded.notes.append(told)
    latency = looked.timed["latency"]
    profiled = sorted(recorded.run_ms)[len(recorded.run_ms) // 2]
    return Profile(
        subject={
            "id": assignment.subject.id,
            "digest": assignment.subject.digest,
            "name": assignment.subject.name,
            "format": assignment.subject.format,
        },
        target={"runtime": seen.runtime.name, "params": seen.params.model_dump(mode="json")},
        batch=looked.batch,
        threads=latency["threads"],
        runs=len(recorded.run_ms),
        latency={
            "p50_ms": latency["p50_ms"],
            "low_ms": looked.timed["p50_interval_ms"]["low"],
            "high_ms": looked.timed["p50_interval_ms"]["high"],
            "launches": latency["launches"],
            "samples": latency["samples"],
        },
        profiled_ms=profiled,
        layers_ms=total,
        gap=gap(latency["p50_ms"], profiled, total),
        layers=layers,
        peak_memory_bytes=recorded.peak_memory_bytes,
        memory=recorded.memory,
        peaks=looked.peaks,
        notes=recorded.notes,
        machine=machine(),
        versions=dict(runtimes.registry.alone(seen.runtime.name).versions()),
    )


def _original(assignment: JobAssignment) -> ModelHandle | None:
    """The uploaded model; of an engine the one that it was made from, if it is still there."""
    if assignment.subject.format != ENGINE:
        return assignment.subject.handle()
    return assignment.origin.handle() if assignment.origin else None


def gap(latency_ms: float, profiled_ms: float, layers_ms: float) -> str | None:
    """Where the layers' sum is off the latency by more than `GAP`: by how much, and whether profiler or runtime explain it."""
    off = layers_ms / latency_ms - 1
    if abs(off) <= GAP:
        return None
    slower = profiled_ms / latency_ms
    told = [
        f"the layers take {layers_ms:.4g} ms together, {abs(off):.0%} {'more' if off > 0 else 'less'} than the latency of "
        f"{latency_ms:.4g} ms without a profiler"
    ]
    if slower > 1 + GAP:
        told.append(f"with the profiler a run takes {slower:.2f} times as long ({profiled_ms:.4g} ms)")
    outside = profiled_ms - layers_ms
    if outside > GAP * profiled_ms:
        told.append(
            f"{outside:.4g} ms of a profiled run lie in no layer: the runtime's own work between them, and inputs and outputs"
        )
    elif outside < -GAP * profiled_ms:
        told.append("layers ran side by side, so their times add up to more than the run")
    if len(told) == 1:
        told.append(
            f"a run with the profiler took {profiled_ms:.4g} ms, so the machine was busier or slower at one of both times"
        )
    return "; ".join(told)


def summary(found: Profile) -> dict[str, Any]:
    """What the job's result shows; the artifact `profile.json` has the rest."""
    said = found.model_dump(mode="json", by_alias=True)
    kept = (
        *("target", "of", "batch", "threads", "runs", "latency", "profiled_ms", "layers_ms", "gap"),
        *("phases", "peak_memory_bytes", "peaks", "advice", "notes"),
    )
    slowest = sorted(said["layers"], key=lambda layer: -float(layer["mean_ms"]))[:SHOWN]
    return {**{name: said[name] for name in kept}, "layers": len(found.layers), "slowest": slowest}


def artifacts(attempt: "Attempt", found: Made, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The profile, the report of it, and the traces that viewers open."""
    assignment, profile = attempt.assignment, found.profile
    name, lineage = stem(assignment), lineage_of(assignment)
    path = written(
        assignment.scratch / f"{name}-profile.json", profile.model_dump(mode="json", by_alias=True)
    )
    said = {"schema": profile.schema_}
    made = [artifact("profile", path, MEDIA_JSON, said, lineage)]
    report = document(
        assignment,
        created_at=datetime.now(UTC),
        datasets=dataset_roles(assignment),
        result=result,
        steps=attempt.steps.outcomes,
        runs_ns=found.runs_ns,
        profile=profile,
        machine=profile.machine,
        versions=versions_of(profile.versions),
    )
    made += report_artifacts(assignment, report, lineage, None)
    for trace in found.traces:
        entry = artifact("trace", trace.path, trace.media_type, {"schema": 1, "trace": trace.kind}, lineage)
        made.append({**entry, "role": f"trace-{trace.kind}"})
    return made
