"""Starts the processes of a training on this machine by torchrun's agent, hears the first of them, and ends all if one dies.

    python -m workers.training.torchrun FILE     the agent: an `Order`, written by `run_processes`

The agent meets its processes on the loopback, at ports that the system picks; those of several nodes meet at the first one's,
where a relay carries them (`workers/nodes/`). It starts none anew: an attempt whose process died ends, and the next one
goes on from the checkpoint, maybe elsewhere.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from app.errors import BurnishError, Internal, OutOfMemory
from app.redaction import showable
from workers.nodes.addresses import STORE_PORT, address
from workers.problems import ProcessDied, error_of
from workers.sandbox.cgroups import oom_kills
from workers.sandbox.namespaces import die_with_parent

AGENT = (sys.executable, "-P", "-m", "workers.training.torchrun")
LOOPBACK = "127.0.0.1"
LISTEN_SECONDS = 0.05
MEET_SECONDS = 900  # until the last node is there, which may have to fetch its data first
SHUTDOWN_SECONDS = 3  # from SIGTERM to SIGKILL, for the others where one died
LAST_LINES, LAST_CHARS = 12, 2000

Hear = Callable[[dict[str, Any]], None]


class Order(BaseModel):
    """What the agent is to start. `folder` is where its processes write what they have to say."""

    job: Path
    processes: int  # of each node
    node: int = 0
    nodes: int = 1
    strategy: str
    backend: str
    threads: int  # of each process
    parent: int
    folder: Path

    @property
    def told(self) -> Path:
        """What the first process tells, a JSON object a line."""
        return self.folder / "told.jsonl"

    @property
    def heard(self) -> Path:
        """How many lines of it were heard."""
        return self.folder / "heard"

    @property
    def logs(self) -> Path:
        """Where the agent puts what its processes print."""
        return self.folder / "logs"

    @property
    def ended(self) -> Path:
        """How the processes that failed ended: {rank: exit status, -N where signal N ended it}."""
        return self.folder / "ended.json"

    def problem(self, rank: int) -> Path:
        """What a process ended with, where it could say so: {at (nanoseconds of the machine's clock), problem}."""
        return self.folder / f"problem-{rank}.json"


def run_processes(order: Order, hear: Hear) -> None:
    """Train, and return when all processes are done. `hear` is called for everything that the first one tells.

    Raises:
        BurnishError: a process found something wrong.
        ProcessDied, OutOfMemory: a process died. None is left.
    """
    order.folder.mkdir(parents=True, exist_ok=True)
    file = order.folder / "order.json"
    file.write_text(order.model_dump_json())
    kills = oom_kills()
    agent = subprocess.Popen([*AGENT, str(file)], stdin=subprocess.DEVNULL, stdout=2)
    told = _lines(order.told)
    heard = 0
    try:
        while True:
            over = (
                agent.poll() is not None
            )  # asked before the last look: what was told before the end is there
            for line in iter(lambda: next(told), None):
                hear(json.loads(line))
                heard += 1
                replace(order.heard, str(heard))
            if over:
                break
            time.sleep(LISTEN_SECONDS)
    finally:
        _end(agent)
    if agent.returncode != 0:
        raise _failure(order, agent.returncode, oom_kills() > kills)


def _lines(path: Path) -> Iterator[str | None]:
    """The whole lines of a file that grows, and None each time that there is no other yet."""
    while not path.exists():
        yield None
    with path.open("rb") as file:
        begun = b""
        while True:
            begun += file.readline()
            if begun.endswith(b"\n"):
                yield begun.decode()
                begun = b""
            else:
                yield None


def replace(path: Path, text: str) -> None:
    """Write a file such that nobody reads a half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left: first the agent, so that it starts and judges nothing any more."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(agent.pid).children(recursive=True)
    agent.kill()
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()
    agent.wait()
    psutil.wait_procs(below, timeout=SHUTDOWN_SECONDS)


def _failure(order: Order, status: int, out_of_memory: bool) -> BurnishError:
    """The cause, among all that failed because of it: a process that could not say why it ended, else what was found wrong first.

    When a process leaves, calls of the others fail, in whatever part of the program they are: what these say comes later.
    """
    if not order.ended.exists():
        return ProcessDied(
            f"torchrun {_how(status)} before the training was done",
            stage="training",
            hint="the job's log has its last lines",
        )
    ended = {int(rank): int(status) for rank, status in json.loads(order.ended.read_text()).items()}
    said = {
        rank: json.loads(order.problem(rank).read_text())
        for rank in range(order.processes * order.nodes)
        if order.problem(rank).exists()
    }
    silent = [rank for rank, status in ended.items() if rank not in said and status != -signal.SIGTERM]
    if not silent and said:
        first = min(said.values(), key=lambda each: int(each["at"]))
        problem = error_of(first["problem"])
        return _apart(problem) if order.nodes > 1 and isinstance(problem, Internal) else problem
    rank = (silent or list(ended))[0]
    which = f"process {rank} of the {order.processes * order.nodes} that train"
    if ended[rank] == -signal.SIGKILL and out_of_memory:
        return OutOfMemory(
            f"the kernel killed {which} for want of memory",
            stage="training",
            hint="train fewer samples at once (`batch_size`, `accumulate`), or fewer processes",
        )
    words = _last_words(order, rank)
    ending = f"its last words: {words}" if words else "it printed nothing"
    return ProcessDied(
        f"{which} {_how(ended[rank])}; the others were ended. {ending}",
        stage="training",
        hint="the job's log has more; another attempt goes on from the last checkpoint",
    )


def _apart(problem: BurnishError) -> ProcessDied:
    """A node that is lost shows in the others as calls that fail, in whatever part of the program they are."""
    return ProcessDied(
        f"the processes of this node could not go on without the others: {problem.detail}",
        stage="training",
        hint="another attempt goes on from the last checkpoint",
    )


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last_words(order: Order, rank: int) -> str:
    local = rank % order.processes
    texts = [path.read_text(errors="replace") for path in order.logs.glob(f"*/attempt_0/{local}/stderr.log")]
    lines = "".join(texts).rstrip().splitlines()[-LAST_LINES:]
    return showable("\n".join(lines)[-LAST_CHARS:])


def main(path: Path) -> int:
    """The agent. Its exit status is 0 where all processes ended well; else `Order.ended` says which did not."""
    order = Order.model_validate_json(path.read_text())
    die_with_parent(order.parent)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["OMP_NUM_THREADS"] = str(order.threads)
    os.environ["TORCH_CPP_LOG_LEVEL"] = (
        "ERROR"  # warnings of names that a loopback has not, and of unused parameters that could be
    )
    config = LaunchConfig(
        min_nodes=order.nodes,
        max_nodes=order.nodes,
        nproc_per_node=order.processes,
        run_id="training",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{address(0)}:{STORE_PORT if order.nodes > 1 else 0}",
        rdzv_configs=_meeting(order),
        local_addr=address(order.node),
        max_restarts=0,
        monitor_interval=LISTEN_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        log_line_prefix_template="process ${rank}: ",
        logs_specs=DefaultLogsSpecs(log_dir=str(order.logs), redirects=Std.ALL, tee=Std.ERR),
    )
    try:
        elastic_launch(config, sys.executable)(
            "-P", "-m", "workers", "train", f"--parent={os.getpid()}", str(path)
        )
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        order.ended.write_text(json.dumps({rank: failure.exitcode for rank, failure in failures}))
        return 1
    return 0


def _meeting(order: Order) -> dict[str, Any]:
    """Options of the meeting. Nodes' clocks differ, so none is taken for dead by them: its supervisor says when it is."""
    if order.nodes == 1:
        return {"is_host": True}
    return {
        "is_host": order.node == 0,
        "read_timeout": MEET_SECONDS,
        "join_timeout": MEET_SECONDS,
        "keep_alive_max_attempt": MEET_SECONDS,
    }


def tell_and_wait(order: Order, number: int, event: Mapping[str, Any]) -> None:
    """Of the first process: append line `number` (from 1) to what it tells, and wait until it was heard.

    So a checkpoint's files stay as they are until they are kept, as they do where one process trains.
    """
    with order.told.open("a") as file:
        file.write(json.dumps(dict(event), allow_nan=False) + "\n")
    while not order.heard.exists() or int(order.heard.read_text()) < number:
        time.sleep(LISTEN_SECONDS / 5)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
