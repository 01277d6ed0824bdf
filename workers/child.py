"""One attempt of one job, or one inspection, in a fresh process: reads an assignment, speaks `protocol.py`."""

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from app.errors import BurnishError
from workers.assignment import InspectAssignment, JobAssignment
from workers.hand_over import HandOver
from workers.openmp import wait_asleep
from workers.problems import ProcessDied, problem_of
from workers.protocol import SupervisorPipe

Assignment = Annotated[JobAssignment | InspectAssignment, Field(discriminator="kind")]


def main(path: Path) -> int:
    """Do what the assignment says. The last line on the pipe is `result` or `problem`; the exit status is 0 for both."""
    wait_asleep()
    pipe = SupervisorPipe.take_stdio()
    assignment: JobAssignment | InspectAssignment = TypeAdapter(Assignment).validate_json(path.read_bytes())
    stage = Stage(pipe)
    try:
        result, problem = work(assignment, stage)
    except HandOver as handing:
        pipe.tell("hand_over", why=str(handing))
        return 0
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        result, problem = None, problem_of(error, stage.name)
    if problem is None:
        pipe.tell("result", result=result)
    else:
        again = isinstance(problem, ProcessDied)
        pipe.tell("problem", problem=problem.problem(), result=result, again=again)
    return 0


class Stage:
    """The supervisor's pipe, remembering the stage that was told last: an error without one happened there."""

    def __init__(self, pipe: SupervisorPipe):
        self._pipe = pipe
        self.name: str | None = None

    def tell(self, type_: str, **fields: Any) -> None:
        """Pass on what needs no answer."""
        if type_ == "progress":
            self.name = fields["stage"]
        self._pipe.tell(type_, **fields)

    def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Pass on what needs an answer."""
        return self._pipe.ask(type_, **fields)


def work(
    assignment: JobAssignment | InspectAssignment, supervisor: Stage
) -> tuple[dict[str, Any], BurnishError | None]:
    """The result, and what is wrong with it if anything. Imports late: an inspection needs no ONNX Runtime."""
    if isinstance(assignment, InspectAssignment):
        from workers.inspect import inspect

        def report(stage: str) -> None:
            supervisor.tell("progress", stage=stage, done=0, total=0, message="")

        return inspect(assignment, report), None
    if assignment.part is not None:
        from workers.nodes.part import take_part

        return take_part(assignment, supervisor), None
    if assignment.kind == "profile":
        from workers.profiling.job import profile

        return profile(assignment, supervisor), None
    if assignment.kind == "benchmark":
        from workers.benchmarking.job import benchmark

        return benchmark(assignment, supervisor), None
    from workers.budget import over_budget
    from workers.pipeline import optimize

    result = optimize(assignment, supervisor)
    return result, over_budget(result)
