"""How long this process's threads waited for a processor that somebody else had (Linux, /proc/PID/task/TID/schedstat)."""

from pathlib import Path

_TASKS = Path("/proc/self/task")


def waited_ns() -> dict[str, int] | None:
    """By thread: nanoseconds that it was ready to run and did not; None where the system does not count them."""
    found = {}
    try:
        for task in _TASKS.iterdir():
            found[task.name] = int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return found


def longest_wait_ns(before: dict[str, int] | None, after: dict[str, int] | None) -> int | None:
    """The longest wait of any thread between two readings: what it may have held up the others by."""
    if before is None or after is None:
        return None
    return max((waited - before.get(thread, 0) for thread, waited in after.items()), default=0)
