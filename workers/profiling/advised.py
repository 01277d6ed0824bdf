"""The advice of one attempt: what rules may look at, gathered from the job and from what it saw."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.catalog.spec import ModelFacts
from app.jobs.subjects import ENGINE
from app.profiles.schemas import Advice, Profile
from workers.assignment import SubjectFiles
from workers.offered import offered, without_absent
from workers.profiling.advising import Case, advise
from workers.profiling.variations import Variations

if TYPE_CHECKING:
    from workers.pipeline import Attempt


def advice_of(
    attempt: "Attempt", profile: Profile, engine: Mapping[str, Any], variations: Variations | None = None
) -> list[Advice]:
    """What would help the model of this job. `engine`: the facts of its build."""
    assignment = attempt.assignment
    data = dict(assignment.inputs)
    if assignment.data is not None:
        data.setdefault("calibration", assignment.data)
    found = variations or Variations()
    return advise(
        Case(
            profile,
            model=facts_of(assignment.subject),
            structure={
                entry["name"]: entry for entry in (assignment.subject.structure or {}).get("layers", ())
            },
            recipe=assignment.recipe["passes"],
            engine=engine,
            data=data,
            offered=frozenset(without_absent(offered())),
            threads=found.threads,
            batches=found.batches,
        )
    )


def facts_of(subject: SubjectFiles) -> ModelFacts | None:
    """What validation knows of a job's subject; None of a built engine."""
    if subject.format == ENGINE:
        return None
    return ModelFacts(
        format=subject.format,
        precision=subject.facts["precision"],
        operators=subject.facts["operators"],
        size_bytes=subject.facts["size_bytes"],
        inputs=tuple(subject.signature["inputs"]),
        outputs=tuple(subject.signature["outputs"]),
        control_flow=subject.facts.get("control_flow", {}),
        conversions=subject.facts.get("conversions", {}),
        coverage=subject.facts.get("coverage", {}),
    )
