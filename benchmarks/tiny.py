"""A worker whose jobs are tiny: everything around the child is real, the child only stores one file and one number.

python -m benchmarks.tiny worker [SECONDS]   serves `runtime.onnxruntime-cpu` and inspections, a job at a time
python -m benchmarks.tiny child …            what it starts for a job; SECONDS is how long it sleeps besides
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CHILD = (sys.executable, "-P", "-m", "benchmarks.tiny", "child")


def worker(seconds: str) -> None:
    """Serve until told to stop."""
    from workers import supervisor, worker

    supervisor.CHILD = (*CHILD, "--seconds", seconds)  # type: ignore[assignment]
    worker.main(["inspect", "runtime.onnxruntime-cpu"], 1)


def start_seconds() -> float:
    """When this process was started, in seconds since the machine was (proc(5), field 22 of stat)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def child(arguments: list[str]) -> None:
    """A step, an artifact, and the milliseconds that this process has lived."""
    from workers.protocol import SupervisorPipe
    from workers.sandbox import enter

    parser = argparse.ArgumentParser()
    enter.add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=0.0)
    parsed = parser.parse_args(arguments)
    given = enter.given(parsed)
    born = start_seconds()  # asked here: the sandbox may hide it
    enter.enter(given)
    assignment = json.loads(given.assignment.read_text())
    pipe = SupervisorPipe.take_stdio()
    step = {"index": 0, "name": "tiny", "cached": False, "seconds": None, "key": None, "facts": {}}
    pipe.tell("step", status="running", **step)
    file = given.folder / "work" / "tiny.txt"
    file.write_text(assignment["job_id"])
    time.sleep(parsed.seconds)
    pipe.tell("step", status="done", **{**step, "seconds": 0.0})
    lived_ms = (time.clock_gettime(time.CLOCK_BOOTTIME) - born) * 1000
    artifact: dict[str, Any] = {
        "role": "engine",
        "kind": "engine",
        "filename": "tiny.txt",
        "media_type": "text/plain",
        "path": str(file),
        "manifest": None,
        "inputs": [],
        "tree_digest": None,
    }
    number: dict[str, Any] = {
        "side": "optimized",
        "name": "lived",
        "unit": "ms",
        "value": lived_ms,
        "low": None,
        "high": None,
        "samples": {"count": 1},
        "machine": {},
    }
    pipe.tell("result", result={"result": {}, "artifacts": [artifact], "measurements": [number]})


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1] == "child" else worker(sys.argv[2] if len(sys.argv) > 2 else "0")
