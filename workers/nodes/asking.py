"""How a child asks for other workers to train with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import InvalidParams
from workers.nodes.inside import numbered
from workers.nodes.seat import Seat
from workers.problems import error_of

if TYPE_CHECKING:
    from workers.passing import Prepared
    from workers.pipeline import Attempt


class AskedNodes:
    """See `Nodes`: those that the supervisor of the first node gathers for pass `number` of the recipe."""

    def __init__(self, attempt: "Attempt", given: "Prepared", number: int):
        self._attempt, self._given, self._number = attempt, given, number

    def gather(self, counts: Sequence[int]) -> Seat:
        """See `Nodes.gather`.

        Raises:
            InvalidParams: this worker trains with no others.
        """
        if not self._attempt.assignment.gathers:
            raise InvalidParams(
                "this kind of job trains on one node",
                param="distributed.nodes",
                hint="ask for one node, or optimize the model",
            )
        if not numbered(0):
            raise unnumbered()
        work = {
            "number": self._number,
            "key": self._given.key,
            "model": self._source(),
            "device": self._attempt.device,
        }
        answer = self._attempt.supervisor.ask("gather", counts=list(counts), work=work)
        if (problem := answer.get("problem")) is not None:
            raise error_of(problem)
        return Seat(0, int(answer["count"]), Path(answer["folder"]))

    def dismiss(self) -> None:
        """See `Nodes.dismiss`."""
        self._attempt.supervisor.ask("dismiss")

    def _source(self) -> str | None:
        """The key of the step that left the model; None where it is the job's subject."""
        digest = self._given.model.digest
        outcomes = reversed(self._attempt.steps.outcomes)
        return next((one.key for one in outcomes if one.digest == digest), None)


def unnumbered() -> InvalidParams:
    """This child has no network in which nodes could be told apart."""
    return InvalidParams(
        "this worker cannot train with others: its jobs have no network namespaces, or their ports cannot be set",
        param="distributed.nodes",
        hint="let the worker's user make network namespaces (docs/security.md); a container needs a writable /proc/sys",
    )
