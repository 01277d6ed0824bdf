"""Why a child did not bring a result, as the problem that the user sees."""

import errno
import signal

from app.errors import BurnishError, Crashed, DiskFull, OutOfMemory
from workers import limits
from workers.child_process import ChildProcess, ProtocolError


def death_of(child: ChildProcess, status: int, oom_kills_before: int) -> BurnishError:
    """The problem of a child that ended without a last line. `status` is -N where signal N killed it."""
    if status == -signal.SIGKILL and limits.oom_kills() > oom_kills_before:
        return out_of_memory("the system ran out of memory and killed the job's process")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    words = child.log.tail()
    said = f"its last words: {words}" if words else "it printed nothing"
    return Crashed(
        f"the job's process {how} before it was done; {said}"[:4000], hint="the job's log has more"
    )


def misunderstood(error: ProtocolError) -> Crashed:
    """The problem of a child that does not speak the protocol: a broken process, or a hostile one."""
    return Crashed(f"the job's process said {error}"[:2000])


def out_of_memory(detail: str, stage: str | None = None) -> OutOfMemory:
    """The problem of a child that took too much memory."""
    return OutOfMemory(
        detail,
        stage=stage,
        hint="use a smaller model or fewer samples at once, or a worker with more memory (BURNISH_CHILD_MEMORY_BYTES)",
    )


def disk_full(error: Exception) -> DiskFull | None:
    """The problem of a scratch disk without space, None where the error is another one."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return DiskFull("the scratch disk has no space left", hint="free space where BURNISH_SCRATCH_DIR points")
