"""A training from a pass: in this process, or in several that torchrun's agent starts."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from app.catalog.pass_params.training import TrainingParams
from app.errors import InvalidParams
from workers.context import PassContext
from workers.measure.processors import usable_processors
from workers.nodes.inside import carried
from workers.nodes.seat import PartDone, Seat
from workers.training.group import SingleProcess
from workers.training.phases import UNMEASURED
from workers.training.rank import check_params, train
from workers.training.report import TrainingReport, load_report
from workers.training.task import TrainingJob
from workers.training.torchrun import LOOPBACK, Hear, Order, run_processes

SCALARS = "scalars"
PARAM = "distributed.processes"
NODES = "distributed.nodes"


def run(job: TrainingJob, ctx: PassContext, params: TrainingParams) -> TrainingReport:
    """Train, from the last checkpoint on where another attempt left one. `job.out` gets the result, `ctx.aside` the scalars.

    Raises:
        InvalidParams: so many processes cannot train here.
        BurnishError: the training found something wrong; see `rank.train`.
        ProcessDied, OutOfMemory: one of several processes died; what was kept is there for the next attempt.
        PartDone: other nodes train too, and this is not the first of them.
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
    seat = take_seat(job, ctx, params) if ctx.phases is UNMEASURED else None
    if processes == 1 and seat is None:
        with all_processors():
            report = train(job, SingleProcess(), hear, ctx.phases)
    else:
        report = _train_together(job, params, processes, hear, seat)
        if seat is not None and ctx.nodes is not None:
            ctx.nodes.dismiss()
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
    if number == 1 and params.distributed.nodes == 1:
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


def take_seat(job: TrainingJob, ctx: PassContext, params: TrainingParams) -> Seat | None:
    """This node's place among several; None where it trains alone.

    Raises:
        InvalidParams: they could not share out a batch, or this worker trains with no others.
    """
    asked = params.distributed
    if asked.nodes == 1:
        return None
    assert isinstance(asked.processes, int)  # the parameters' own rule
    check_params(params, asked.nodes * asked.processes, validation=job.validation is not None)
    if ctx.nodes is None:
        raise InvalidParams(
            "only a job can train over several nodes", param=NODES, hint="ask for one, or submit a job"
        )
    counts = [asked.nodes]
    if asked.on_lost == "shrink" and job.checkpoint is not None:
        share = params.accumulate * asked.processes
        counts += [
            fewer for fewer in range(asked.nodes - 1, 0, -1) if params.batch_size % (fewer * share) == 0
        ]
    seat = ctx.nodes.gather(counts)
    if seat.count < asked.nodes:
        ctx.warn(f"{asked.nodes} nodes were asked for; from the last checkpoint on, {seat.count} trained")
    return None if seat.count == 1 else seat


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


def _train_together(
    job: TrainingJob, params: TrainingParams, processes: int, hear: Hear, seat: Seat | None
) -> TrainingReport:
    folder = job.out.with_name(f"{job.out.name}-processes")
    folder.mkdir()
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    order = Order(
        job=file,
        processes=processes,
        node=seat.number if seat is not None else 0,
        nodes=seat.count if seat is not None else 1,
        strategy=params.distributed.strategy,
        backend=params.distributed.backend,
        threads=max(usable_processors() // processes, 1),
        parent=os.getpid(),
        folder=folder,
    )
    with carried(seat.folder, seat.number, seat.count) if seat is not None else nullcontext():
        run_processes(order, hear)
    if order.node > 0:
        raise PartDone
    return load_report(job.out)
