"""The machine that a number was taken on."""

import os
import platform
from importlib.metadata import version
from typing import Any

import psutil

import app
from app.artifacts import accelerators
from workers import gpu
from workers.measure.processors import SYSTEM_CPUS, usable_processors
from workers.probe import cpu
from workers.sandbox import cgroups

OPENVINO_DEVICES = {accelerators.GPU: "GPU", accelerators.NPU: "NPU"}


def machine() -> dict[str, Any]:
    """What makes numbers comparable: processor, what this process may use of it, memory, governor, load, versions."""
    model, features = cpu()
    return {
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": model,
        "cpu_features": features,
        "processors": os.cpu_count(),
        "usable_processors": usable_processors(),
        "processor_quota": cgroups.cores(),
        "governor": governor(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": load_average(),
        "gpu": _gpu(),
        "versions": {
            "burnish": app.__version__,
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
    }


def hardware_key(device: str = "cpu") -> str:
    """The machine as part of a step's cause: what engines and hardware-bound passes depend on, and nothing that varies.

    `device` is what the step's result is for: the GPU or NPU counts for what is for one.
    """
    model, features = cpu()
    key = f"{platform.machine()} / {model} / {' '.join(sorted(features))}"
    if device in OPENVINO_DEVICES:
        from workers.openvino_library import device_identity  # heavy, and only such workers have it

        told = device_identity(OPENVINO_DEVICES[device])
        return key if told is None else f"{key} / {told}"
    found = gpu.gpus() if device == "cuda" else []
    if not found:
        return key
    return f"{key} / {found[0]['name']} / {found[0]['compute_capability']} / driver {found[0]['driver']}"


def _gpu() -> dict[str, Any] | None:
    """The first GPU and what it does; None where there is none."""
    found = gpu.gpus()
    return {**found[0], **(gpu.state() or {})} if found else None


def governor() -> str | None:
    """The frequency governor of the first CPU; None where the system has none or hides it (virtual machines)."""
    try:
        return (SYSTEM_CPUS / "cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def load_average() -> list[float] | None:
    """Processes that wanted to run, on average of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
