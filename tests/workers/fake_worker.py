"""A real worker process whose children do as their jobs say."""

import sys

from tests.workers.conftest import FAKE_CHILD
from workers import inspection, supervisor, worker

supervisor.CHILD = inspection.CHILD = FAKE_CHILD

if __name__ == "__main__":
    worker.main(["inspect", "runtime.onnxruntime-cpu"], int(sys.argv[1]))
