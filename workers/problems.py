"""Any error of a child as one of the contract's, with the stage that it happened in."""

from collections.abc import Mapping
from typing import Any

from app.errors import BurnishError, Crashed, Internal, OutOfMemory, by_code
from workers.full_disk import disk_full


def problem_of(error: Exception, stage: str | None) -> BurnishError:
    """What a person can act on; anything unforeseen is `internal`, with the traceback in the log."""
    if isinstance(error, BurnishError):
        known = error
    elif isinstance(error, MemoryError) or _is_refused_memory(error):
        known = OutOfMemory("the process could not get the memory that it asked for")
    elif (full := disk_full(error)) is not None:
        known = full
    else:
        known = Internal(
            f"{type(error).__name__} in stage {stage}: {str(error)[:500]}",
            hint="the job's log has the traceback",
        )
    known.stage = known.stage or stage
    return known


def _is_refused_memory(error: Exception) -> bool:
    """PyTorch says it in words where processors are out of memory, and by a class of its own where GPUs are."""
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
    )


class ProcessDied(Crashed):
    """The job's process died"""  # as `Crashed`; another attempt may do better, as after the death of the child itself


def error_of(problem: Mapping[str, Any]) -> BurnishError:
    """The error that a process said as a problem object."""
    fields = {name: problem.get(name) for name in ("stage", "node", "param", "hint", "errors", "retryable")}
    return by_code()[problem["code"]](problem["detail"], **fields)
