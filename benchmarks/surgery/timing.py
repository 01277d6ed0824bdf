"""How a pass that chooses by latency is given its target outside of a job."""

from typing import Any

from benchmarks.surgery.speed import PARAMS
from benchmarks.training.common import INPUT, OUTPUT, Room
from workers.assignment import JobAssignment, SubjectFiles
from workers.model_handle import ModelHandle
from workers.pipeline import Attempt
from workers.steps import Steps
from workers.timing import OnTarget

MEASURE_SECONDS = 20.0  # a candidate gets half of them


class Unshared:
    """A supervisor of one job: nobody else asks for the device."""

    def tell(self, type_: str, **fields: Any) -> None:
        """Nobody listens."""

    def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """The device is free."""
        return {}


def on_target(place: Room, model: ModelHandle, shape: list[int], runtime: str) -> OnTarget:
    """Candidates beside a network of images (without the batch) on a runtime, one thread; inputs are generated."""
    signature = {
        "inputs": [{"name": INPUT, "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [{"name": OUTPUT, "dtype": "float32", "shape": ["batch", 10]}],
    }
    subject = SubjectFiles(
        id="model", digest=model.digest, root=model.root, entry=model.entry, format=model.format, name="model", facts={},
        signature=signature,
    )  # fmt: skip
    assignment = JobAssignment(
        job_id="job", attempt=1, scratch=place.new(), subject=subject, recipe={"passes": []}, evaluation=None, budget=None,
        target={"runtime": runtime, "params": PARAMS}, options={}, measure_seconds=MEASURE_SECONDS, measure_launches=5, datasets={},
    )  # fmt: skip
    supervisor = Unshared()
    attempt = Attempt(assignment, supervisor, Steps(supervisor, assignment.scratch))
    return OnTarget(attempt, model, "pass:prune-channels", place.new())
