"""One attempt of one job: claim it, start a child, hear it, settle it. A child's death is a job's problem, not ours."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

import app.tables  # every table, before the first row is read
from app.config import get_settings
from app.db import transaction
from app.errors import BurnishError, Cancelled, OutOfMemory, TimedOut, Unavailable
from app.fleet import service as fleet
from app.jobs import gang, lease
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from app.observability import tracing
from workers import ability, horovod_library, running, scratch, watch_gpus
from workers.answers import Answers
from workers.assignment import JobAssignment
from workers.child_process import ChildProcess, ProtocolError, child_limits
from workers.durable import durably
from workers.endings import death_of, misunderstood, overrun, unforeseen
from workers.finish import conclude, keep_files, read_problem
from workers.hold import JobHold, Lost, Stop
from workers.measure.processors import usable_processors
from workers.nodes import member
from workers.nodes.gathering import Gathering, NotTogether
from workers.placement import VISIBLE, is_lost, missing, placed
from workers.sandbox import cgroups
from workers.watch import Limits, Watch

CHILD = (sys.executable, "-m", "workers", "child")
TICK_SECONDS = 0.5
LEAVE_SECONDS = 2.0

log = structlog.get_logger(__name__)


def run(rung: str, command: Sequence[str] | None = None) -> None:
    """Run the job that is next in the queue of the one that was rung for. Raises nothing that the job is to blame for.

    `command` starts the child, `CHILD` where none is given; see `ChildProcess` for what is put behind it.
    """
    settings = get_settings()
    if running.stopping.is_set():
        return
    if (taken := member.take(rung)) is not None:
        member.run(*taken, command)
        return
    claimed_at = time.monotonic()  # the lease ends no earlier than it does counted from here
    with transaction() as session:
        job = lease.claim_next(
            session,
            rung,
            running.WORKER_ID,
            settings.lease_seconds,
            lambda request: _ours(session, rung, request),
        )
        seconds = lease.seconds_left(session, job.id) if job is not None else 0.0
    if job is None:
        log.info("not_claimed", rung=rung)
        return
    folder = scratch.folder(job.id, job.attempt)
    with (
        running.entered(folder.name, job.id),
        structlog.contextvars.bound_contextvars(job=job.id, attempt=job.attempt),
        tracing.span("job attempt", job.traceparent, {"burnish.job": job.id, "burnish.attempt": job.attempt}),
    ):
        log.info("attempt_began")
        try:
            Attempt(job, claimed_at, seconds, folder, command or CHILD).run()
        finally:
            scratch.remove(folder)
        log.info("attempt_ended")


def _ours(session: Session, rung: str, request: Mapping[str, Any]) -> bool:
    """Whether this worker takes a job: it can do it, or nobody is there who could, and it says why not.

    While one job gathers nodes, no other of its queue begins that would only have to wait for its turn.
    """
    able, several = ability.able(request), gang.nodes_of(request) > 1
    if able and not several:
        return True
    queue = session.scalars(select(Job.queue).where(Job.id == rung)).one()
    seen, horovod = get_settings().worker_seen_seconds, gang.needs_horovod(request)
    if several:
        if gang.gathering(session, queue) is not None:
            return False
        if not running.trains_with_others.is_set() and fleet.count_trainers(session, queue, seen, horovod):
            return False
    has_horovod = horovod_library.version() is not None if horovod else None
    return able or not fleet.differs(session, queue, app.__version__, usable_processors(), seen, has_horovod)


class Attempt:
    """One attempt, from the claim on."""

    def __init__(
        self, job: Job, claimed_at: float, running_seconds: float, folder: Path, command: Sequence[str]
    ):
        self._job = job
        self._running_seconds = running_seconds
        self._folder = folder
        self._command = command
        self._hold = JobHold(job, claimed_at)
        self._nodes = Gathering(self._hold, folder, job) if gang.nodes_of(job.request) > 1 else None

    def run(self) -> None:
        """Work, and settle the job: ended, queued again, or left to whoever has it now."""
        try:
            try:
                self._work()
            except NotTogether as late:
                self._postpone(late)
            except Unavailable as error:  # the store is away: another attempt may find it back
                self._died(error)
            except BurnishError as error:
                self._fail(error)
            except Lost:
                raise
            except Exception as error:
                log.exception("attempt_failed")
                self._fail(unforeseen(error))
        except Lost:
            log.warning("lease_lost")

    def _work(self) -> None:
        settings = get_settings()
        ability.check(self._job.request)
        watch = Watch(
            self._hold,
            Limits(
                running_seconds=self._running_seconds,
                silent_seconds=settings.step_seconds,
            ),
        )
        watch.start()
        try:
            request = self._job.request
            with placed(request["targets"][0], request["recipe"]) as environment:
                self._with_child(watch, environment)
        finally:
            if self._nodes is not None:
                self._nodes.close()
            watch.settle()
            for device in list(self._hold.devices):
                self._hold.release(device)

    def _with_child(self, watch: Watch, environment: Mapping[str, str]) -> None:
        scratch.make(self._folder)
        assignment = durably(
            lambda session: scratch.describe(session, self._job, self._folder), self._hold.outlived
        )
        assignment.gathers = self._nodes is not None and assignment.kind == "optimize"
        path = scratch.lay_out(assignment)
        kills = cgroups.oom_kills()
        self._limits = child_limits(self._folder, node=0 if assignment.gathers else None)
        child = ChildProcess(
            self._command,
            path,
            self._folder,
            self._folder.name,
            self._limits,
            environment,
        )
        try:
            watch.attend(child)
            answers = Answers(self._hold, child, watch, assignment, self._nodes)
            last, broken = self._hear(child, watch, answers)
            status = child.close(LEAVE_SECONDS if last else 0)
            answers.close()
            death = broken or death_of(child, status, kills)
            if (last is None or last["type"] == "problem") and is_lost(environment):
                watch_gpus.stop_for_lost(environment[VISIBLE].split(","))
                self._lost_gpu(watch.stopped, answers.stage)
                return
            self._settle(assignment, last, watch.stopped, death, answers.stage)
        finally:
            child.close()

    def _hear(
        self, child: ChildProcess, watch: Watch, answers: Answers
    ) -> tuple[dict[str, Any] | None, BurnishError | None]:
        """The child's last line, None where it ended without one; and what it said that nobody can understand."""
        try:
            while not child.ended:
                for message in child.messages(TICK_SECONDS):
                    if message["type"] in ("result", "problem", "hand_over"):
                        watch.child_done()
                        return message, None
                    answers.take(message)
                answers.tick()
        except ProtocolError as error:
            return None, misunderstood(error)
        return None, None

    def _settle(
        self,
        assignment: JobAssignment,
        last: dict[str, Any] | None,
        stopped: Stop | None,
        death: BurnishError,
        stage: str | None,
    ) -> None:
        if stopped is not None and (last is None or last["type"] == "problem"):
            self._stopped(stopped, stage)
        elif last is None:
            death.stage = stage
            self._died(death)
        elif last["type"] == "hand_over":
            self._hand_over(assignment, last)
        else:
            try:
                self._keep(assignment, last)
            except ProtocolError as error:
                self._died(misunderstood(error))

    def _keep(self, assignment: JobAssignment, last: dict[str, Any]) -> None:
        """Store what the child brought: a result, a problem, or both where an engine broke its budget."""
        problem = read_problem(last.get("problem")) if last["type"] == "problem" else None
        if problem is not None and last.get("result") is None:
            cause = self._nodes.cause() if self._nodes is not None and last.get("again") is True else None
            if cause is not None:
                self._fail(cause)
            elif last.get("again") is True:
                self._retry_later(problem)
            else:
                self._finish(JobStatus.FAILED, problem)
            return
        brought = keep_files(assignment, last.get("result"))
        self._hold.write(lambda session: conclude(session, self._hold, assignment, brought, problem))

    def _lost_gpu(self, stopped: Stop | None, stage: str | None) -> None:
        """The GPU is gone: no fault of the job, which another attempt may do."""
        if stopped is not None:
            self._stopped(stopped, stage)
            return
        error = missing()
        error.stage = stage
        self._died(error)

    def _hand_over(self, assignment: JobAssignment, last: dict[str, Any]) -> None:
        """Another worker goes on, which finds what was built by its key."""
        queue = assignment.measuring_queue
        if queue is None:
            self._died(misunderstood(ProtocolError("it hands over a job that goes on nowhere")))
            return
        log.info("handed_over", queue=queue, why=last.get("why"))
        self._hold.write(lambda session: lease.hand_over(session, self._job.id, self._job.attempt, queue))

    def _stopped(self, stopped: Stop, stage: str | None) -> None:
        settings = get_settings()
        match stopped:
            case Stop.LOST:
                raise Lost
            case Stop.SHUTDOWN:
                self._hold.write(lambda session: lease.give_back(session, self._job.id, self._job.attempt))
            case Stop.CANCELLED:
                self._finish(
                    JobStatus.CANCELLED,
                    Cancelled("the job was cancelled while it ran", stage=stage).problem(),
                )
            case Stop.OVERTIME:
                seconds = self._job.request["limits"]["running_seconds"]
                problem = TimedOut(
                    f"the job was not done within its running limit of {seconds:g} seconds",
                    stage=stage,
                    param="limits.running_seconds",
                    hint="raise the limit",
                )
                self._finish(JobStatus.TIMED_OUT, problem.problem())
            case Stop.SILENT:
                slow = (
                    f"the job's process reported nothing for {settings.step_seconds:g} seconds and was killed"
                )
                hint = (
                    "the job's log has its last words; raise BURNISH_STEP_SECONDS where a step is that slow"
                )
                self._fail(TimedOut(slow, stage=stage, hint=hint))
            case Stop.MEMORY | Stop.PROCESSES | Stop.DISK:
                self._fail(overrun(stopped, self._limits, stage))

    def _died(self, problem: BurnishError) -> None:
        """Another attempt may do better: it goes on from the last stored step. Not where memory ran out."""
        if isinstance(problem, OutOfMemory):
            self._fail(problem)
            return
        self._retry_later(problem.problem())

    def _retry_later(self, problem: dict[str, Any]) -> None:
        most = get_settings().max_attempts
        self._hold.write(
            lambda session: lease.retry_later(session, self._job.id, self._job.attempt, problem, most)
        )

    def _postpone(self, late: NotTogether) -> None:
        """The job waits in its queue, and this worker is free for others."""
        log.info("nodes_not_together", seconds=late.seconds, in_vain=late.problem is not None)
        problem = None if late.problem is None else late.problem.problem()
        most = get_settings().gather_attempts
        self._hold.write(
            lambda session: lease.postpone(
                session, self._job.id, self._job.attempt, late.seconds, problem, most
            )
        )

    def _fail(self, problem: BurnishError) -> None:
        self._finish(JobStatus.FAILED, problem.problem())

    def _finish(self, status: JobStatus, problem: dict[str, Any]) -> None:
        self._hold.write(
            lambda session: lease.finish(session, self._job.id, self._job.attempt, status, problem=problem)
        )
