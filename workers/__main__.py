"""`python -m workers …`: one process a purpose. Each imports late: the worker itself loads neither onnx nor torch."""

import argparse
import sys
from pathlib import Path

from app.catalog.runtimes import RUNTIMES
from workers.sandbox import enter


def main(arguments: list[str] | None = None) -> int:
    """Dispatch; the exit status."""
    given = parser().parse_args(arguments)
    if given.purpose == "worker":
        from workers import worker

        return worker.main(given.queues.split(",") if given.queues else None, given.concurrency)
    if given.purpose == "probe":
        from workers import probe

        if given.runtime:
            return probe.self_test(given.runtime)
        return probe.main(given.runtimes.split(",") if given.runtimes else [])
    if given.purpose == "coverage":
        from workers import coverage

        return coverage.answer(given.runtime, given.model)
    if given.purpose == "train":
        from workers.training import member

        return member.main(given.order, given.parent)
    if given.purpose == "check":
        from workers.sandbox import check

        return check.main(enter.given(given))
    enter.enter(enter.given(given))
    from workers import child

    return child.main(given.assignment)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    purposes = top.add_subparsers(dest="purpose", required=True)
    worker = purposes.add_parser("worker", help="serve queues until stopped")
    worker.add_argument("--queues", help="a,b: instead of inspections and every runtime that works here")
    worker.add_argument("--concurrency", type=int, default=2, help="how many jobs at a time")
    probe = purposes.add_parser("probe", help="print what this machine can do")
    probe.add_argument("--runtime", help="try one runtime alone, in this process")
    probe.add_argument(
        "--runtimes", default=",".join(RUNTIMES), help="a,b: try these, each in a process of its own"
    )
    coverage = purposes.add_parser("coverage", help="print what of a model a runtime can run")
    coverage.add_argument("runtime")
    coverage.add_argument("model", type=Path)
    train = purposes.add_parser(
        "train", help="one of several processes that train; started by torchrun's agent"
    )
    train.add_argument("--parent", type=int, required=True, help="the process whose death is this one's")
    train.add_argument("order", type=Path)
    enter.add_arguments(purposes.add_parser("child", help="one attempt of one job; started by a worker"))
    enter.add_arguments(
        purposes.add_parser("check", help="try to break out of the sandbox; started by the probe")
    )
    return top


if __name__ == "__main__":
    sys.exit(main())
