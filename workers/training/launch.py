"""A training from a pass: in this process, or in several that torchrun's agent starts."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.catalog.pass_params.training import TrainingParams
from app.errors import InvalidParams
from workers.context import PassContext
from workers.measure.processors import usable_processors
from workers.training.group import SingleProcess
from workers.training.phases import UNMEASURED
from workers.training.rank import train
from workers.training.report import TrainingReport, load_report
from workers.training.task import TrainingJob
from workers.training.torchrun import LOOPBACK, Hear, Order, run_processes

SCALARS = "scalars"
PARAM = "distributed.processes"


def run(job: TrainingJob, ctx: PassContext, params: TrainingParams) -> TrainingReport:
    """Train, from the last checkpoint on where another attempt left one. `job.out` gets the result, `ctx.aside` the scalars.

    Raises:
        InvalidParams: so many processes cannot train here.
        BurnishError: the training found something wrong; see `rank.train`.
        ProcessDied, OutOfMemory: one of several processes died; what was kept is there for the next attempt.
    """
    job = job.model_copy(
        update={
            "checkpoint": ctx.checkpoint.last(),
            "checkpoint_seconds": ctx.checkpoint_seconds,
            "memory_bytes": ctx.memory_bytes,
        }
    )

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            ctx.checkpoint.keep(Path(event["folder"]))
        else:
            ctx.report(event["done"], event["total"], event["message"])

    processes = 1 if ctx.phases is not UNMEASURED else count_processes(job, ctx, params)
    if processes == 1:
        with all_processors():
            report = train(job, SingleProcess(), hear, ctx.phases)
    else:
        report = _train_together(job, params, processes, hear)
    scalars = job.out / SCALARS
    if ctx.aside is not None and scalars.is_dir():
        shutil.copytree(scalars, ctx.aside, dirs_exist_ok=True)
    return report


def count_processes(job: TrainingJob, ctx: PassContext, params: TrainingParams) -> int:
    """How many processes will train.

    Raises:
        InvalidParams: there are no GPUs for so many, or they cannot talk to one another.
    """
    asked = params.distributed.processes
    gpus = torch.cuda.device_count() if job.device == "cuda" else 0
    number = max(gpus, 1) if asked == "auto" else asked
    if number == 1:
        return 1
    if 0 < gpus < number:
        raise InvalidParams(
            f"{number} processes need a GPU each, and this attempt has {gpus}",
            param=PARAM,
            hint="ask for as many as the worker's machine has GPUs, or for `auto`",
        )
    if (why := closed_loopback()) is not None:
        if asked == "auto":
            ctx.warn(f"one process trains, though there are {gpus} GPUs: {why}")
            return 1
        raise InvalidParams(
            f"{number} processes cannot train together here: {why}",
            param=PARAM,
            hint="ask for one process, or let the worker's user make network namespaces (docs/security.md)",
        )
    if job.device == "cpu" and number > (usable := usable_processors()):
        ctx.warn(f"{number} processes train on {usable} processors: one for each would be as fast")
    return number


def closed_loopback() -> str | None:
    """Why processes of this sandbox cannot talk to one another, None where they can."""
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return None
    except OSError as error:
        return (
            "a job may open no sockets on this worker, which has no network namespace for it to have a loopback of its own "
            f"({error.strerror or error})"
        )


@contextmanager
def all_processors() -> Iterator[None]:
    """PyTorch's threads on every processor that this process may use; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_processors())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_together(job: TrainingJob, params: TrainingParams, processes: int, hear: Hear) -> TrainingReport:
    folder = job.out.with_name(f"{job.out.name}-processes")
    folder.mkdir()
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    order = Order(
        job=file,
        processes=processes,
        strategy=params.distributed.strategy,
        threads=max(usable_processors() // processes, 1),
        parent=os.getpid(),
        folder=folder,
    )
    run_processes(order, hear)
    return load_report(job.out)
