"""What the child of a node does that is not the first: its part of one pass, whose result the first node has."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.errors import Crashed, IncompatibleRecipe
from workers import passes
from workers.assignment import JobAssignment, Part
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.nodes.asking import unnumbered
from workers.nodes.carrier import FOLDER
from workers.nodes.inside import numbered
from workers.nodes.seat import PartDone, Seat
from workers.passing import checkpoint_of, prepared
from workers.pipeline import Attempt
from workers.steps import Steps, Supervisor


class Given:
    """See `Nodes`: the place that this node has already."""

    def __init__(self, part: Part, folder: Path):
        self._seat = Seat(part.node, part.count, folder)

    def gather(self, counts: Sequence[int]) -> Seat:
        """See `Nodes.gather`."""
        return self._seat

    def dismiss(self) -> None:
        """The first node's to say."""


def take_part(assignment: JobAssignment, supervisor: Supervisor) -> dict[str, Any]:
    """Train with the others; {} once that is done.

    Raises:
        IncompatibleRecipe: this worker would not train the same.
        BurnishError: as the pass.
    """
    part = assignment.part
    assert part is not None
    if not numbered(part.node):
        raise unnumbered()
    attempt = Attempt(
        assignment, supervisor, Steps(supervisor, assignment.scratch), device=part.work["device"]
    )
    number = part.work["number"]
    given = prepared(
        attempt,
        number,
        assignment.recipe["passes"][number],
        _model(part.work["model"], assignment, supervisor),
    )
    if given.key != part.work["key"]:
        raise IncompatibleRecipe(
            "this worker's packages or hardware differ from those of the worker that has the job, so it would train another network",
            stage=given.name,
            hint="let workers that train together have the same versions of everything",
        )
    for name in ("work", "out"):
        (given.work / name).mkdir(parents=True)
    context = PassContext(
        out=given.work / "out",
        seed=assignment.seed,
        samples=given.samples,
        teacher=given.teacher,
        device=attempt.device,
        checkpoint=checkpoint_of(attempt, given),
        checkpoint_seconds=assignment.checkpoint_seconds,
        memory_bytes=assignment.memory_bytes,
        work=given.work / "work",
        nodes=Given(part, assignment.scratch.parent / FOLDER),
        stored=_stored(supervisor, given.work),
    )
    try:
        passes.registry.get(given.spec.name)(given.model, given.params, context)
    except PartDone:
        return {}
    raise Crashed("this node trained alone, though it was to train with others", stage=given.name)


def _model(key: str | None, assignment: JobAssignment, supervisor: Supervisor) -> ModelHandle:
    """The model as the first node has it: what a step left, or the job's subject."""
    if key is None:
        return assignment.subject.handle()
    found = supervisor.ask("lookup", key=key)
    if not found["found"]:
        raise Crashed(
            "the step that left the model is not stored any more",
            stage="fetching",
            hint="another attempt does it again",
        )
    facts = found["facts"]
    return ModelHandle(Path(found["root"]), facts["entry"], facts["format"], found["digest"])


def _stored(supervisor: Supervisor, folder: Path) -> Any:
    """See `PassContext.stored`: what the first node stored, else done here and not stored."""

    def stored(name: str, cause: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]) -> Path:
        found = supervisor.ask("lookup", key=Steps.key_of(name, cause))
        if found["found"]:
            return Path(found["root"])
        out = folder / f"{name.replace(':', '-')}-here"
        out.mkdir()
        work(out)
        return out

    return stored
