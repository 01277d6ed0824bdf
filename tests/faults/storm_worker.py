"""A real worker process whose jobs are cheap; inspections are real ones."""

import sys

from workers import supervisor, worker

supervisor.CHILD = (sys.executable, "-m", "tests.faults.storm_child")

if __name__ == "__main__":
    worker.main(["runtime.onnxruntime-cpu"], 2)
