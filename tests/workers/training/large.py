"""A training of a network that is large for its processes, each of which may take only so much memory: FOLDER has `job.json`.

    python -m torch.distributed.run --standalone --nproc-per-node N large.py FOLDER STRATEGY BYTES

BYTES are those that a process may take beside what it has when it has joined the others; 0: any number.
"""

import json
import os
import resource
import sys
from pathlib import Path

import psutil
import torch

from workers.problems import problem_of
from workers.training.processes import joined
from workers.training.rank import train
from workers.training.task import TrainingJob


def main(folder: Path, strategy: str, budget: int) -> int:
    torch.set_num_threads(1)
    job = TrainingJob.model_validate_json((folder / "job.json").read_text())
    with joined("cpu", strategy) as group:
        before = psutil.Process().memory_info()
        if budget:
            most = before.data + budget
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        told = folder / f"{group.rank}.json"
        try:
            train(job, group, lambda event: None)
        except Exception as error:
            told.write_text(json.dumps({"problem": problem_of(error, "training").problem()}))
            os._exit(1)  # leaving the group in order would wait for the others
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        told.write_text(json.dumps({"taken": peak - before.rss}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
