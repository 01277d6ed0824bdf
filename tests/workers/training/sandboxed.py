"""A child of the sandbox that trains as its assignment says: {job, params, nodes}. Says what came of it as a job's child does."""

import argparse
import json
from collections.abc import Sequence

from workers.nodes.carrier import FOLDER
from workers.nodes.seat import Seat
from workers.problems import problem_of
from workers.protocol import SupervisorPipe
from workers.sandbox import enter


class Given:
    """The place that the test gives."""

    def __init__(self, given: enter.Confinement, count: int):
        self._given, self._count = given, count

    def gather(self, counts: Sequence[int]) -> Seat:
        assert self._given.node is not None
        return Seat(self._given.node, self._count, self._given.folder / FOLDER)

    def dismiss(self) -> None:
        """Nobody watches."""


def main() -> None:
    parser = argparse.ArgumentParser()
    enter.add_arguments(parser)
    given = enter.given(parser.parse_args())
    report = enter.enter(given)
    pipe = SupervisorPipe.take_stdio()
    from workers.context import PassContext
    from workers.nodes.seat import PartDone
    from workers.training import launch
    from workers.training.rank import params_of
    from workers.training.task import TrainingJob

    assignment = json.loads(given.assignment.read_text())
    work = given.folder / "work" / "here"
    work.mkdir()
    job = TrainingJob.model_validate(assignment["job"])
    try:
        nodes = Given(given, assignment["nodes"]) if "nodes" in assignment else None
        context = PassContext(out=job.out, work=work, nodes=nodes)
        done = launch.run(job, context, params_of(assignment["params"]))
    except PartDone:
        pipe.tell("result", part=given.node)
    except Exception as error:
        pipe.tell("problem", problem=problem_of(error, "training").problem(), network=report.network)
    else:
        pipe.tell("result", steps=done.steps, processes=done.processes, network=report.network)


if __name__ == "__main__":
    main()
