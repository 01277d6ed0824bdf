"""One attempt of a `benchmark` job: every combination of what is varied, in every scenario, and the cold start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from app.benchmarks.schemas import Benchmark, Energy, Knee, Point, Rate, Trial
from app.errors import BurnishError
from app.jobs.looking import BenchmarkSettings, Scenario
from workers import runtimes
from workers.assignment import JobAssignment
from workers.benchmarking.cold import cold_start
from workers.benchmarking.energy import Meter
from workers.benchmarking.scenarios import Setting, latency_of, offline, queries, serving
from workers.benchmarking.server import Tried, highest_rate
from workers.bundle.package import artifact, dataset_roles, lineage_of, report_artifacts, stem, versions_of
from workers.looking import Seen, engines_of, feeds_of, runs_of_query, written
from workers.measure.environment import machine
from workers.measure.feeds_file import save_feeds
from workers.measure.processors import usable_processors
from workers.problems import error_of
from workers.reporting.document import document
from workers.steps import Steps, Supervisor
from workers.timing import alone

if TYPE_CHECKING:
    from workers.pipeline import Attempt

UNSTABLE = 0.1  # of the launches' mean, by which their medians may vary
KNEE = 0.9  # of the best throughput, that the knee of the batch curve reaches
TRIAL_SECONDS = (
    12  # times those of a point, that one rate of scenario `server` may take: late queries are rare
)
MEDIA_JSON = "application/json"


def benchmark(assignment: JobAssignment, supervisor: Supervisor) -> dict[str, Any]:
    """Do the job; the answer is the `result` of `protocol.py`.

    Raises:
        BurnishError: anything that the user can act on, naming stage and cause.
    """
    from workers.pipeline import Attempt

    attempt = Attempt(assignment, supervisor, Steps(supervisor, assignment.scratch))
    settings = BenchmarkSettings.model_validate(assignment.asked)
    found = measured(attempt, settings)
    said = found.model_dump(mode="json", by_alias=True)
    shown = {key: said[key] for key in ("target", "points", "knees", "cold_start", "notes")}
    result = {"benchmark": shown, "warnings": attempt.warnings}
    made = attempt.steps.fresh("packaging", lambda: artifacts(attempt, found, result))
    return {"result": result, "artifacts": made, "measurements": []}


def artifacts(attempt: "Attempt", found: Benchmark, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The benchmark, and the report of it."""
    assignment, lineage = attempt.assignment, lineage_of(attempt.assignment)
    path = assignment.scratch / f"{stem(assignment)}-benchmark.json"
    written(path, found.model_dump(mode="json", by_alias=True))
    report = document(
        assignment,
        created_at=datetime.now(UTC),
        datasets=dataset_roles(assignment),
        result=result,
        steps=attempt.steps.outcomes,
        benchmark=found,
        machine=found.machine,
        versions=versions_of(found.versions),
    )
    made = artifact("benchmark", path, MEDIA_JSON, {"schema": found.schema_}, lineage)
    return [made, *report_artifacts(assignment, report, lineage, None)]


def measured(attempt: "Attempt", settings: BenchmarkSettings) -> Benchmark:
    """Every point, alone on the device; one that fails says why, and the others go on.

    Raises:
        BurnishError: every point failed.
    """
    assignment = attempt.assignment
    changes = [{"threads": count} for count in settings.threads]
    engines = engines_of(attempt, changes or [{}])
    bench = Bench(attempt, settings, assignment.scratch / "benchmarking")
    with alone(attempt.supervisor, engines[0].runtime.device, [seen.engine.root for seen in engines]):
        points = [
            attempt.steps.fresh(f"measuring:{combination.scenario}", partial(bench.point, combination))
            for combination in combinations(settings, engines)
        ]
        if all(point.problem is not None for point in points):
            raise error_of(points[0].problem or {})
        feeds, _ = bench.feeds(engines[0], None)
        start = attempt.steps.fresh(
            "cold start", lambda: cold_start(engines[0].under_test, feeds, bench.folder / "cold")
        )
    return Benchmark(
        subject={
            "id": assignment.subject.id,
            "digest": assignment.subject.digest,
            "name": assignment.subject.name,
            "format": assignment.subject.format,
        },
        target={
            "runtime": engines[0].runtime.name,
            "params": engines[0].params.model_dump(mode="json"),
        },
        points=points,
        knees=list(knees(points)),
        cold_start=start,
        notes=list(_notes(settings, points, start.dropped)),
        machine=machine(),
        versions=dict(runtimes.registry.alone(engines[0].runtime.name).versions()),
    )


@dataclass(frozen=True)
class Combination:
    """What one point is measured with. `batch` is a query's samples; of scenario `server` the most of one run."""

    scenario: Scenario
    seen: Seen
    batch: int
    streams: int

    @property
    def processes(self) -> int:
        """In multi-stream the streams are a query's samples, and one process answers them."""
        return 1 if self.scenario == "multi-stream" else self.streams


def combinations(settings: BenchmarkSettings, engines: Sequence[Seen]) -> Iterator[Combination]:
    """Every combination that makes sense: one stream where that is the scenario, as many samples as streams where it is that."""
    for scenario, seen in product(settings.scenarios, engines):
        if scenario == "single-stream":
            yield from (Combination(scenario, seen, batch, 1) for batch in settings.batch)
        elif scenario == "multi-stream":
            yield from (Combination(scenario, seen, streams, streams) for streams in settings.streams)
        else:
            for batch, streams in product(settings.batch, settings.streams):
                yield Combination(scenario, seen, batch, streams)


@dataclass
class Bench:
    """Measures points. Feeds of a batch are laid out once."""

    attempt: "Attempt"
    settings: BenchmarkSettings
    folder: Path
    _count: int = 0

    def point(self, chosen: Combination) -> Point:
        """One point; measured again, with twice the launches, where the first was unstable."""
        self._count += 1
        common = {
            "scenario": chosen.scenario,
            "batch": chosen.batch,
            "threads": threads_of(chosen.seen),
            "streams": chosen.streams,
        }
        try:
            with Meter(chosen.seen.runtime.device) as meter:
                found = self._observed(chosen, self.settings.launches)
                if found["variation"] > UNSTABLE:
                    again = self._observed(chosen, 2 * self.settings.launches)
                    found = {**again, "attempts": 2}
        except BurnishError as error:
            return Point(**common, status="failed", problem=error.problem())
        samples = found.pop("samples")
        if self.settings.energy and meter.used is not None:
            found["energy"] = Energy(
                joules_per_sample=meter.used.joules / samples,
                watts=meter.used.joules / meter.used.seconds,
                source=meter.used.source,
            )
        status = "unstable" if found["variation"] > UNSTABLE else "measured"
        return Point(**common, status=status, **found)

    def feeds(self, seen: Seen, batch: int | None) -> tuple[Path, int]:
        """The file of feeds of a batch, and how many samples a run has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        feeds, size = feeds_of(self.attempt, seen, batch)
        path = self.folder / f"feeds-{size}.npz"
        if not path.exists():
            save_feeds(path, feeds)
        return path, size

    def _observed(self, chosen: Combination, launches: int) -> dict[str, Any]:
        batch, runs = chosen.batch, 1
        if chosen.scenario == "multi-stream":
            batch, runs = runs_of_query(self.attempt, chosen.seen, chosen.streams)
        feeds, batch = self.feeds(chosen.seen, batch)
        setting = Setting(
            engine=chosen.seen.under_test,
            feeds=feeds,
            batch=batch,
            streams=chosen.processes,
            scratch=self.folder / f"point-{self._count}",
            seconds=self.settings.seconds,
            launches=launches,
            seed=self.attempt.assignment.seed,
            report=self.attempt.report(f"measuring:{chosen.scenario}"),
            samples=chosen.batch,
            runs=runs,
        )
        if chosen.scenario == "server":
            assert self.settings.p99_ms is not None
            return served(setting, self.settings.p99_ms)
        seen = offline(setting) if chosen.scenario == "offline" else queries(setting)
        return {
            "latency": seen.latency(),
            "throughput": seen.rate(setting.seed),
            "variation": seen.variation,
            "peak_memory_bytes": int(median(seen.timed.peak_bytes)) * setting.streams,
            "load_ms": median(seen.timed.load_ms),
            "samples": seen.samples,
            "runs": runs,
        }


def served(setting: Setting, bound_ms: float) -> dict[str, Any]:
    """Scenario server: the highest rate that keeps the bound, and every rate that was tried."""
    with serving(setting, bound_ms) as (serve, capacity, timed):
        tried = highest_rate(
            serve, capacity, bound_ms, TRIAL_SECONDS * setting.seconds, setting.seed, setting.report
        )
    kept = [one for one in tried if one.kept]
    best = max(kept, key=lambda one: one.rate, default=None)
    broken = [one.rate for one in tried if not one.kept and (best is None or one.rate > best.rate)]
    return {
        "latency": None if best is None else latency_of(best.latency_ms),
        "throughput": None
        if best is None
        else Rate(value=best.rate, low=best.rate, high=min(broken, default=best.rate)),
        "variation": 0.0,
        "peak_memory_bytes": timed.peak_bytes[0] * setting.streams,
        "load_ms": timed.load_ms[0],
        "samples": sum(len(one.latency_ms) for one in tried),
        "server": [_trial(one) for one in tried],
        "bound_ms": bound_ms,
    }


def _trial(one: Tried) -> Trial:
    return Trial(
        rate_per_s=one.rate,
        queries=len(one.latency_ms),
        late=one.late,
        kept=one.kept,
        p99_ms=latency_of(one.latency_ms).p99_ms,
        mean_batch=one.mean_batch,
        utilization=one.utilization,
    )


def threads_of(seen: Seen) -> int:
    """The threads of an engine: what its parameters say, else every processor that it is pinned to."""
    return int(getattr(seen.params, "threads", 0) or usable_processors())


def knees(points: Sequence[Point]) -> Iterator[Knee]:
    """For each number of threads and streams, where larger batches stop paying."""
    curves: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        if point.scenario == "offline" and point.throughput is not None:
            curves.setdefault((point.threads, point.streams), []).append(point)
    for (threads, streams), curve in curves.items():
        if len(curve) < 2:
            continue
        rates = {point.batch: point.throughput.value for point in curve if point.throughput is not None}
        best = max(rates, key=lambda batch: rates[batch])
        knee = min(batch for batch, rate in rates.items() if rate >= KNEE * rates[best])
        yield Knee(
            batch=knee,
            throughput_per_s=rates[knee],
            best_batch=best,
            best_throughput_per_s=rates[best],
            threads=threads,
            streams=streams,
        )


def _notes(settings: BenchmarkSettings, points: Sequence[Point], dropped: bool) -> Iterator[str]:
    if settings.energy and not any(point.energy for point in points):
        yield "no energy was measured: this machine lets no process read RAPL's counters, and has no NVIDIA GPU that tells its power"
    if not dropped:
        yield "the engine's files could not be dropped from the page cache: the cold start is a warm one's"
    for point in points:
        if point.status == "unstable":
            yield (
                f"{point.scenario} at batch {point.batch}: launches differed by {point.variation:.0%} twice; measure again on a "
                "quieter machine"
            )
        if point.runs > 1:
            yield f"the engine's batch is fixed, so a query of {point.streams} samples is {point.runs} runs, one after another"
        if point.scenario == "server" and point.throughput is None and point.status != "failed":
            yield f"no rate keeps {point.bound_ms:g} ms at batch {point.batch}: a single answer takes about as long"
