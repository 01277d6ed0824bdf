"""What outlives a worker that was killed: processes that its child started and that left the child's group."""

from contextlib import suppress

import psutil

from workers.child_process import MARK


def kill(mark: str) -> int:
    """Kill the processes that carry an attempt's mark and that this user may look into; how many."""
    killed = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.kill()
                killed += 1
    return killed
