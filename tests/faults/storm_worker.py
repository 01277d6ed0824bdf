"""A real worker process whose jobs are cheap; inspections are real ones."""

import sys
from pathlib import Path

from workers import supervisor, worker

supervisor.CHILD = (sys.executable, str(Path(__file__).with_name("storm_child.py")))

if __name__ == "__main__":
    worker.main(["runtime.onnxruntime-cpu"], 2)
