"""One of several processes that train together: `python -m workers train FILE`, started by torchrun's agent."""

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import torch

from workers.problems import problem_of
from workers.sandbox.namespaces import die_with_parent
from workers.training import processes
from workers.training.group import Group
from workers.training.rank import train
from workers.training.task import TrainingJob
from workers.training.torchrun import Order, replace, tell_and_wait


def main(path: Path, parent: int) -> int:
    """Do this process's part of an `Order`; the exit status is 0 where it is done."""
    die_with_parent(parent)
    order = Order.model_validate_json(path.read_text())
    torch.set_num_threads(order.threads)
    job = TrainingJob.model_validate_json(order.job.read_text())
    numbers = count(1)

    def tell(event: Mapping[str, Any]) -> None:
        tell_and_wait(order, next(numbers), event)

    try:
        with _joined(job.device, order) as group:
            train(job, group, tell)
    except Exception as error:
        said = {"at": time.monotonic_ns(), "problem": problem_of(error, "training").problem()}
        replace(order.problem(int(os.environ["RANK"])), json.dumps(said))
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # leaving the group in order would wait for the others
    return 0


def _joined(device: str, order: Order) -> AbstractContextManager[Group]:
    if order.backend == "horovod":
        from workers.training import horovod  # few environments have it

        return horovod.joined(device)
    return processes.joined(device, order.strategy)
