"""The machine that a number was taken on."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from workers.runtimes.cpu_features import cpu_features


def machine() -> dict[str, Any]:
    """What may change a timing: processor, its features and clock policy, memory, load, system."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cpu_features": cpu_features(),
        "cpus_online": os.cpu_count() or 1,
        "cpus_allowed": sorted(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_off": _line("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def hardware_key() -> str:
    """What of the machine goes into the key of a step whose result depends on it."""
    return f"{platform.machine()} {cpu_model()} {' '.join(cpu_features())}"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _line(path: str) -> str | None:
    text = _text(path)
    return text.strip() if text is not None else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
