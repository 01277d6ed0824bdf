"""Resident memory of this process, as Linux tells it in /proc; elsewhere only the peak of its whole life is known."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PEAK_ONLY = "5"  # what /proc/self/clear_refs takes to reset the peak alone: man 5 proc


def resident_bytes() -> int:
    """Resident memory now; the peak where the system does not say."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most resident memory since `reset_peak`, or since the start where that is not permitted."""
    if (peak := _status("VmHWM")) is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> bool:
    """Start counting the peak from what is resident now; False where the system does not permit that."""
    try:
        Path("/proc/self/clear_refs").write_text(_PEAK_ONLY)
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{field}:")), None)
    return int(found.split()[1]) * 1024 if found else None
