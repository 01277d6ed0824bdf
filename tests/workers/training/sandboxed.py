"""A child of the sandbox that trains as its assignment says: {job, params}. Says what came of it as a job's child does."""

import argparse
import json

from workers.problems import problem_of
from workers.protocol import SupervisorPipe
from workers.sandbox import enter


def main() -> None:
    parser = argparse.ArgumentParser()
    enter.add_arguments(parser)
    given = enter.given(parser.parse_args())
    report = enter.enter(given)
    pipe = SupervisorPipe.take_stdio()
    from app.catalog.pass_params.training import TrainingParams
    from workers.context import PassContext
    from workers.training import launch
    from workers.training.task import TrainingJob

    assignment = json.loads(given.assignment.read_text())
    work = given.folder / "work" / "here"
    work.mkdir()
    job = TrainingJob.model_validate(assignment["job"])
    try:
        done = launch.run(
            job, PassContext(out=job.out, work=work), TrainingParams.model_validate(assignment["params"])
        )
    except Exception as error:
        pipe.tell("problem", problem=problem_of(error, "training").problem(), network=report.network)
    else:
        pipe.tell("result", steps=done.steps, processes=done.processes, network=report.network)


if __name__ == "__main__":
    main()
