"""What a job was asked, did and found, as one plain document: `report.json`, from which the other forms are written."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.benchmarks.schemas import Benchmark
from app.profiles.schemas import Profile
from app.reports.schemas import Report, Step
from workers.assignment import JobAssignment
from workers.reporting.distribution import Runs, distribution
from workers.reporting.repeat import command_of, request_of
from workers.reporting.surgery import surgery
from workers.steps import StepOutcome

ROW = (
    "side",
    "name",
    "unit",
    "value",
    "low",
    "high",
    "samples",
)  # of a measurement; the machine is said once

Json = Mapping[str, Any]


def document(
    assignment: JobAssignment,
    *,
    created_at: datetime,
    datasets: Iterable[Json],
    result: Json,
    steps: Sequence[StepOutcome],
    measurements: Iterable[Json] = (),
    runs_ns: Mapping[str, Runs] | None = None,
    profile: Profile | None = None,
    benchmark: Benchmark | None = None,
    machine: Json,
    versions: Mapping[str, str],
) -> Report:
    """The report of a job. `runs_ns` are the timed runs by side (`measure.latency`), `result` is the job's."""
    subject, request = assignment.subject, request_of(assignment)
    return Report(
        kind=assignment.kind,
        job=assignment.job_id,
        created_at=created_at.astimezone(UTC).isoformat(timespec="seconds"),
        subject={name: getattr(subject, name) for name in ("id", "digest", "name", "format")},
        target=assignment.target,
        recipe=assignment.recipe,
        datasets=[dict(one) for one in datasets],
        request=request,
        command=command_of(request),
        result=dict(result),
        steps=[
            Step(
                name=step.name,
                key=step.key,
                cached=step.cached,
                seconds=step.seconds,
                told=step.facts.get("told", []),
            )
            for step in steps
        ],
        measurements=[{name: row[name] for name in ROW} for row in measurements],
        distributions=[distribution(side, runs) for side, runs in (runs_ns or {}).items()],
        surgery=surgery(steps),
        profile=profile,
        benchmark=benchmark,
        machine=dict(machine),
        versions=dict(versions),
    )
