"""Why a child did not bring a result, as the problem that the user sees."""

import signal

from app.errors import BurnishError, Crashed, DiskFull, Internal, OutOfMemory
from app.redaction import showable
from workers.child_process import ChildLimits, ChildProcess, ProtocolError
from workers.full_disk import disk_full
from workers.hold import Stop
from workers.sandbox import cgroups


def death_of(child: ChildProcess, status: int, oom_kills_before: int) -> BurnishError:
    """The problem of a child that ended without a last line. `status` is -N where signal N killed it."""
    if status == -signal.SIGKILL and child.took_all_its_memory:
        return out_of_memory(
            f"the job held more than the {child.limits.memory_bytes} bytes of memory that it may"
        )
    if status == -signal.SIGKILL and cgroups.oom_kills() > oom_kills_before:
        return out_of_memory("the system ran out of memory and killed the job's process")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    words = child.log.tail()
    said = f"its last words: {words}" if words else "it printed nothing"
    return Crashed(
        f"the job's process {how} before it was done; {said}"[:4000], hint="the job's log has more"
    )


def overrun(stop: Stop, limits: ChildLimits, stage: str | None) -> BurnishError:
    """The problem of a child that was killed because it held too much."""
    if stop is Stop.DISK:
        return DiskFull(
            f"the job held more than the {limits.scratch_bytes} bytes of the scratch disk that it may",
            stage=stage,
            hint="use a smaller model, or a worker with a larger scratch disk (BURNISH_CHILD_SCRATCH_BYTES)",
        )
    if stop is Stop.PROCESSES:
        return Crashed(
            f"the job started more than the {limits.processes} processes that it may and was killed",
            stage=stage,
        )
    return out_of_memory(
        f"the job held more than the {limits.memory_bytes} bytes of memory that it may", stage
    )


def misunderstood(error: ProtocolError) -> Crashed:
    """The problem of a child that does not speak the protocol: a broken process, or a hostile one."""
    return Crashed(showable(f"the job's process said {error}")[:2000])


def unforeseen(error: Exception) -> BurnishError:
    """The problem of a worker's own error, whose traceback is in its log."""
    said = showable(f"{type(error).__name__}: {str(error)[:500]}")
    return disk_full(error) or Internal(f"the worker failed: {said}")


def out_of_memory(detail: str, stage: str | None = None) -> OutOfMemory:
    """The problem of a child that took too much memory."""
    return OutOfMemory(
        detail,
        stage=stage,
        hint="use a smaller model or fewer samples at once, or a worker with more memory (BURNISH_CHILD_MEMORY_BYTES)",
    )
