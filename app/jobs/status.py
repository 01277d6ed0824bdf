"""The states of a job and every change between them. Pure: no database, no clock."""

from enum import StrEnum

from app.errors import Conflict


class JobStatus(StrEnum):
    """Where a job stands; stored as this text."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


# A job is born queued; a parent, which no worker claims, is born running.
ALLOWED: dict[JobStatus, dict[JobStatus, str]] = {
    JobStatus.QUEUED: {
        JobStatus.RUNNING: "a worker claimed it",
        JobStatus.CANCELLED: "cancelled before anybody claimed it",
        JobStatus.TIMED_OUT: "nobody claimed it within its pending limit",
    },
    JobStatus.RUNNING: {
        JobStatus.QUEUED: "its worker gave it back on shutdown, handed it over to one that can go on, or its lease ended",
        JobStatus.CANCELLING: "cancel was asked for; its worker must kill the child first",
        JobStatus.CANCELLED: "a parent whose children were all cancelled",
        JobStatus.SUCCEEDED: "the attempt brought a result",
        JobStatus.FAILED: "the attempt brought a problem, or the last allowed attempt was lost",
        JobStatus.TIMED_OUT: "it passed its running limit",
    },
    JobStatus.CANCELLING: {
        JobStatus.CANCELLED: "its worker killed the child, or its lease ended before it could",
        JobStatus.SUCCEEDED: "the result was there before the cancel reached the worker",
        JobStatus.FAILED: "the attempt failed before the cancel reached the worker",
        JobStatus.TIMED_OUT: "it passed its running limit before the cancel reached the worker",
    },
    JobStatus.SUCCEEDED: {},
    JobStatus.FAILED: {},
    JobStatus.CANCELLED: {},
    JobStatus.TIMED_OUT: {},
}

FINISHED = frozenset(status for status, next_ in ALLOWED.items() if not next_)


def finished(status: str) -> bool:
    """Whether a job in this state never changes again.

    Raises:
        ValueError: no such state.
    """
    return JobStatus(status) in FINISHED


def check(old: str, new: str) -> None:
    """Hold a change against the table.

    Raises:
        Conflict: the table does not allow it.
        ValueError: no such state.
    """
    before, after = JobStatus(old), JobStatus(new)
    if after not in ALLOWED[before]:
        raise Conflict(f"A job that is {before} cannot become {after}.", param="status")
