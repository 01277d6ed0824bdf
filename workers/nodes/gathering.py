"""The first node's side of a gang: asks for the others, watches them, lets them go."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.config import get_settings
from app.db import transaction
from app.errors import BurnishError, InvalidParams, NoWorker, Unavailable
from app.fleet import service as fleet
from app.jobs import gang
from app.jobs.tables import Job
from app.queue import queue_depth
from workers.child_process import ProtocolError
from workers.durable import AWAY
from workers.hold import JobHold
from workers.nodes.carrier import FOLDER, Carrier
from workers.problems import error_of

Key = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]

STAGE = "training"
TICK_SECONDS = 0.5
RING_SECONDS = 2.0
MOST_BACKOFF_SECONDS = 600.0
YIELD_SECONDS = 2.0
BUSY_SHARE = 2.0  # small jobs have the worker for so long, of the time that it was held
REPORT_SECONDS = 5.0  # for the other nodes to say what they found, once this one cannot go on
SECONDARY = frozenset({"crashed", "unavailable", "internal", "timed_out", "cancelled"})

log = structlog.get_logger(__name__)


class Work(BaseModel):
    """What the nodes do together, as the first one's child says it."""

    model_config = ConfigDict(extra="forbid")

    number: int  # of the pass in the recipe
    key: Key  # of its step
    model: Key | None  # of the step that left its input; None: the job's subject
    device: Literal["cpu", "cuda"]


class Gather(BaseModel):
    """Workers to train with: as many as the first of `counts`, or, after a time, as another."""

    model_config = ConfigDict(extra="forbid")

    counts: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=64)]
    work: Work


class NotTogether(Exception):
    """The nodes were not all there in time: the job waits in its queue, and its workers are free. `problem`: None where
    there are enough workers, and others have them now."""

    def __init__(self, seconds: float, problem: BurnishError | None):
        super().__init__(seconds)
        self.seconds = seconds
        self.problem = problem


class Gathering:
    """The gang of one attempt."""

    def __init__(self, hold: JobHold, folder: Path, job: Job):
        self._hold, self._folder = hold, folder
        self._queue, self._gathered, self._most = job.queue, job.gathered, gang.nodes_of(job.request)
        self._horovod = gang.needs_horovod(job.request)
        self._carrier: Carrier | None = None
        self._open = False
        self._count = 1
        self._looked = 0.0

    def gather(self, asked: Gather, wait: Callable[[int, int], bool]) -> dict[str, Any]:
        """Hold this worker, and those that come, until there are as many as was asked for.

        `wait(there, wanted)` is called now and then; it returns False where nobody needs the nodes any more.

        Raises:
            NotTogether: they did not come.
            InvalidParams, Unavailable: this worker cannot be reached by others.
            ProtocolError: the job did not ask for so many.
            Lost: the hold is gone.
        """
        settings, counts, work = get_settings(), asked.counts, asked.work.model_dump()
        if max(counts) > self._most:
            raise ProtocolError(f"it gathers {max(counts)} nodes for a job that asks for {self._most}")
        if not settings.train_address:
            raise no_address()
        token = secrets.token_hex(32)
        self.close()
        self._carrier = Carrier(self._folder, settings.train_address, token)
        self._hold.write(
            lambda session: gang.open_gang(
                session,
                self._hold.job_id,
                self._hold.attempt,
                wanted=counts[0],
                token=token,
                address=self._carrier.address if self._carrier else "",
                work=work,
                lease_seconds=settings.lease_seconds,
            )
        )
        self._open = True
        count = self._wait_for(counts, wait)
        if count is None:
            return {}
        self._count = count
        return {"count": count, "folder": str(self._folder / FOLDER)}

    def _wait_for(self, counts: Sequence[int], wait: Callable[[int, int], bool]) -> int | None:
        settings = get_settings()
        end, rung = time.monotonic() + settings.gather_seconds, 0.0
        while True:
            now = self._hold.write(
                lambda session: gang.standing(
                    session, self._hold.job_id, self._hold.attempt, settings.lease_seconds
                )
            )
            over = time.monotonic() > end
            enough = next((each for each in counts if each <= now.seats), None) if over else None
            if now.seats >= counts[0]:
                enough = counts[0]
            if enough is not None and self._begin(enough):
                return enough
            if not now.first:
                raise NotTogether(YIELD_SECONDS, None)
            if over:
                raise self._in_vain(counts[0])
            if time.monotonic() - rung > RING_SECONDS:
                self._ring(counts[0] - now.seats)
                rung = time.monotonic()
            if not wait(now.seats, counts[0]):
                return None
            time.sleep(TICK_SECONDS)

    def _begin(self, count: int) -> bool:
        addresses = (
            self._hold.write(
                lambda session: gang.begin(session, self._hold.job_id, self._hold.attempt, count)
            )
            if count > 1
            else {0: ""}
        )
        if not addresses:
            return False
        assert self._carrier is not None
        if count == 1:
            self.close()
        else:
            self._carrier.meet(0, addresses)
        log.info("nodes_together", nodes=count)
        return True

    def _ring(self, missing: int) -> None:
        """Where messages were lost, or heard by workers that could not come."""
        try:
            if queue_depth(self._queue) >= missing:
                return
            with transaction() as session:
                gang.ring(session, self._hold.job_id, self._queue, missing)
        except Exception as error:  # the broker is away: at the next turn
            log.warning("not_rung", error=str(error))

    def _in_vain(self, wanted: int) -> NotTogether:
        """Where there are enough workers and they do something else, the job waits for them, within its limits."""
        settings = get_settings()
        seconds = settings.gather_seconds
        with transaction(readonly=True) as session:
            there = fleet.count_trainers(session, self._queue, settings.worker_seen_seconds, self._horovod)
        if there >= wanted:
            return NotTogether(BUSY_SHARE * seconds, None)
        problem = NoWorker(
            f"{wanted} nodes were asked for, and {there} workers that train with others{' by Horovod' if self._horovod else ''} are online, "
            f"{self._gathered + 1} times in a row",
            stage=STAGE,
            param="distributed.nodes",
            hint="start more workers with BURNISH_TRAIN_ADDRESS (`GET /v1/workers` lists them), or ask for fewer nodes",
        )
        return NotTogether(min(seconds * 2**self._gathered, MOST_BACKOFF_SECONDS), problem)

    def watch(self) -> None:
        """Look after the other nodes, now and then.

        Raises:
            Unavailable: one was not heard of any more, or could not go on.
            BurnishError: one found something wrong.
        """
        settings = get_settings()
        if not self._open or self._count == 1 or time.monotonic() - self._looked < settings.heartbeat_seconds:
            return
        self._looked = time.monotonic()
        try:
            with transaction(readonly=True) as session:
                lost = gang.lost(session, self._hold.job_id)
                found, _ = gang.problems(session, self._hold.job_id)
        except AWAY:
            return
        if (wrong := _decisive(found)) is not None:
            raise wrong
        if found:
            raise Unavailable(
                f"a node of the {self._count} that train could not go on: {found[0]['detail']}",
                stage=STAGE,
                hint="another attempt goes on from the last checkpoint",
            )
        if lost:
            raise Unavailable(
                f"node {lost[0]} of the {self._count} that train was not heard of any more",
                stage=STAGE,
                hint="another attempt goes on from the last checkpoint",
            )

    def cause(self) -> BurnishError | None:
        """What another node found wrong, where that explains why this one could not go on."""
        end = time.monotonic() + REPORT_SECONDS
        while self._open and self._count > 1:
            try:
                with transaction(readonly=True) as session:
                    found, waiting = gang.problems(session, self._hold.job_id)
            except AWAY:
                return None
            if (wrong := _decisive(found)) is not None:
                return wrong
            if not waiting or time.monotonic() > end:
                return None
            time.sleep(TICK_SECONDS)
        return None

    def close(self) -> None:
        """Let the others go."""
        if self._carrier is not None:
            self._carrier.close()
            self._carrier = None
        if self._open:
            self._open = False
            try:
                with transaction() as session:
                    gang.close_of(session, self._hold.job_id, self._hold.attempt)
            except AWAY:
                pass  # they find out that the attempt is over


def _decisive(found: Sequence[Mapping[str, Any]]) -> BurnishError | None:
    """What explains the end of all: another attempt would end the same."""
    first = next((one for one in found if one["code"] not in SECONDARY), None)
    return None if first is None else error_of(first)


def no_address() -> InvalidParams:
    """A worker that others cannot reach has such a job."""
    return InvalidParams(
        "no worker that is left trains over several nodes: none has an address that others reach",
        param="distributed.nodes",
        hint="set BURNISH_TRAIN_ADDRESS on the workers that shall, or ask for one node",
    )
