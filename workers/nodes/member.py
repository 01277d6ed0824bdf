"""A worker that helps another with its job: takes a place, waits until all are there, trains with them, and says how it ended."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.config import get_settings
from app.db import transaction
from app.errors import BurnishError, Crashed, TimedOut
from app.jobs import gang, lease
from app.jobs.tables import Job
from workers import ability, running, scratch
from workers.answers import Answers, Lookup
from workers.assignment import Part
from workers.child_process import ChildProcess, ProtocolError, child_limits
from workers.durable import AWAY, durably
from workers.endings import death_of, misunderstood, overrun, unforeseen
from workers.finish import read_problem
from workers.hold import Hold, Lost, Stop
from workers.nodes.carrier import Carrier
from workers.placement import placed
from workers.sandbox import cgroups
from workers.watch import Limits, Watch

CHILD = (sys.executable, "-m", "workers", "child")
TICK_SECONDS = 0.5
LEAVE_SECONDS = 2.0
ENDED = ("result", "problem")

log = structlog.get_logger(__name__)


class PlaceHold(Hold):
    """A place in a gang, as long as the attempt that it belongs to goes on."""

    def __init__(self, place: gang.Place, claimed_at: float):
        super().__init__(claimed_at)
        self.place = place
        self.project_id = place.project_id
        self.job_id = place.job_id
        self.attempt = place.attempt

    def _renew(self, session: Session) -> Stop | None:
        return None if gang.renew(session, self.place, self._lease_seconds) else Stop.LOST

    def _look(self, session: Session) -> Stop | None:
        return None if gang.held(session, self.place) else Stop.LOST


class MemberAnswers(Answers):
    """Hears the child of a node that is not the first: it may look up what is stored, and print. The job is not its own."""

    def __init__(self, hold: PlaceHold, child: ChildProcess, watch: Watch, assignment: Any):
        super().__init__(hold, child, watch, assignment)  # type: ignore[arg-type]
        self._node = assignment.part.node

    def take(self, message: dict[str, Any]) -> None:
        """See `Answers.take`."""
        self._count(message)
        match message["type"]:
            case "lookup":
                try:
                    asked = Lookup.model_validate({"key": message.get("key")})
                except ValidationError as error:
                    raise ProtocolError(f"a lookup that does not fit: {error}") from error
                self._lookup(asked)
            case "progress":
                self.stage = str(message.get("stage"))[:100]
            case other:
                raise ProtocolError(f"a message of type {other!r}, as a node that is not the first")

    def _prefixed(self, text: str) -> str:
        return "".join(f"node {self._node}: {line}" for line in text.splitlines(keepends=True))


def take(rung: str) -> tuple[gang.Place, float] | None:
    """A place that is free in the queue of the job that was rung for, and when it was taken."""
    if not running.trains_with_others.is_set():
        return None
    settings = get_settings()
    claimed_at = time.monotonic()
    with transaction() as session:
        place = gang.join(session, rung, running.WORKER_ID, settings.lease_seconds, ability.able)
    return None if place is None else (place, claimed_at)


def run(place: gang.Place, claimed_at: float, command: Sequence[str] | None = None) -> None:
    """Fill a place. Raises nothing: what goes wrong is the job's, whose first node hears of it."""
    folder = scratch.folder(f"{place.job_id}.{place.worker_id}", place.attempt)
    with (
        running.entered(folder.name, place.job_id),
        structlog.contextvars.bound_contextvars(job=place.job_id, attempt=place.attempt),
    ):
        log.info("place_taken")
        try:
            problem = _filled(Member(place, claimed_at, folder, command or CHILD))
            with transaction() as session:
                gang.leave(session, place, problem)
        except AWAY:
            log.warning("place_not_left")  # its lease ends by itself
        finally:
            scratch.remove(folder)
        log.info("place_left")


def _filled(member: "Member") -> dict[str, Any] | None:
    try:
        return member.run()
    except Lost:
        return Crashed("a node lost its place", stage="training").problem()
    except BurnishError as error:
        return error.problem()
    except Exception as error:
        log.exception("part_failed")
        return unforeseen(error).problem()


class Member:
    """One place, from when it was taken."""

    def __init__(self, place: gang.Place, claimed_at: float, folder: Path, command: Sequence[str]):
        self._place, self._folder, self._command = place, folder, command
        self._hold = PlaceHold(place, claimed_at)

    def run(self) -> dict[str, Any] | None:
        """Work; the problem that it ended with.

        Raises:
            Lost: nobody needs it any more.
            BurnishError: what went wrong here.
        """
        with transaction(readonly=True) as session:
            job = session.get(Job, self._place.job_id)
            if job is None or not gang.held(session, self._place):
                raise Lost
            session.expunge(job)
            seconds = lease.seconds_left(session, job.id)
        scratch.make(self._folder)
        watch = Watch(self._hold, Limits(running_seconds=seconds, silent_seconds=seconds))
        watch.start()
        carrier = Carrier(self._folder, get_settings().train_address, self._place.token)
        try:
            self._hold.write(lambda session: gang.listen(session, self._place, carrier.address))
            found = self._wait(watch)
            carrier.meet(found.node, found.addresses)
            part = Part(node=found.node, count=len(found.addresses), work=self._place.work)
            with placed(job.request["targets"][0], job.request["recipe"]) as environment:
                return self._with_child(job, part, watch, environment)
        finally:
            carrier.close()
            watch.settle()

    def _wait(self, watch: Watch) -> gang.Together:
        """Until all are there. The first node lets everybody go in time; this is for one that does not."""
        settings = get_settings()
        end = time.monotonic() + 2 * settings.gather_seconds + settings.lease_seconds
        while watch.stopped is None and time.monotonic() < end and not running.stopping.is_set():
            with transaction(readonly=True) as session:
                found = gang.together(session, self._place)
                held = gang.held(session, self._place)
            if not held:
                break
            if found is not None:
                return found
            time.sleep(TICK_SECONDS)
        raise Lost

    def _with_child(
        self, job: Job, part: Part, watch: Watch, environment: Mapping[str, str]
    ) -> dict[str, Any] | None:
        assignment = durably(
            lambda session: scratch.describe(session, job, self._folder), self._hold.outlived
        )
        assignment.part = part
        path = scratch.lay_out(assignment)
        kills = cgroups.oom_kills()
        limits = child_limits(self._folder, node=part.node)
        child = ChildProcess(self._command, path, self._folder, self._folder.name, limits, environment)
        try:
            watch.attend(child)
            answers = MemberAnswers(self._hold, child, watch, assignment)
            try:
                last = _last(child, watch, answers)
            except ProtocolError as error:
                return misunderstood(error).problem()
            status = child.close(LEAVE_SECONDS if last else 0)
            answers.close()
        finally:
            child.close()
        if last is not None:
            return read_problem(last["problem"]) if last["type"] == "problem" else None
        match watch.stopped:
            case Stop.MEMORY | Stop.PROCESSES | Stop.DISK:
                return overrun(watch.stopped, limits, answers.stage).problem()
            case Stop.LOST:
                raise Lost
            case Stop.SHUTDOWN:
                return Crashed("the worker of a node stopped", stage=answers.stage).problem()
            case Stop.OVERTIME | Stop.SILENT | Stop.CANCELLED:
                return TimedOut(
                    "a node was not done within the job's running limit", stage=answers.stage
                ).problem()
        return death_of(child, status, kills).problem()


def _last(child: ChildProcess, watch: Watch, answers: MemberAnswers) -> dict[str, Any] | None:
    """The child's last line; None where it ended without one."""
    while not child.ended:
        for message in child.messages(TICK_SECONDS):
            if message["type"] in ENDED:
                watch.child_done()
                return message
            answers.take(message)
        answers.tick()
    return None
