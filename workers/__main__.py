"""`python -m workers …`: one process a purpose. Each imports late: the worker itself loads neither onnx nor torch."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Dispatch; the exit status."""
    given = parser().parse_args(arguments)
    if given.purpose == "worker":
        from workers import worker

        return worker.main(given.queues.split(",") if given.queues else None, given.concurrency)
    if given.purpose == "probe":
        from workers import probe

        return probe.self_test(given.runtime) if given.runtime else probe.main()
    from workers import limits

    if given.purpose == "child":
        limits.confine(given.parent, given.file_bytes)
        from workers import child

        return child.main(given.assignment)
    from workers.measure import launch

    launch.main(given.spec)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    purposes = top.add_subparsers(dest="purpose", required=True)
    worker = purposes.add_parser("worker", help="serve queues until stopped")
    worker.add_argument("--queues", help="a,b: instead of inspections and every runtime that works here")
    worker.add_argument("--concurrency", type=int, default=2, help="how many jobs at a time")
    probe = purposes.add_parser("probe", help="print what this machine can do")
    probe.add_argument("--runtime", help="try one runtime alone")
    add_child_arguments(purposes.add_parser("child", help="one attempt of one job; started by a worker"))
    launch = purposes.add_parser("launch", help="run one engine to measure it; started by a child")
    launch.add_argument("spec", type=Path)
    return top


def add_child_arguments(child: argparse.ArgumentParser) -> None:
    """What a supervisor puts behind the command of a child."""
    child.add_argument("--parent", type=int, required=True, help="the process whose death is this one's")
    child.add_argument("--file-bytes", type=int, required=True, help="the largest file that may be written")
    child.add_argument("assignment", type=Path)


if __name__ == "__main__":
    sys.exit(main())
