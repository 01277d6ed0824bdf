"""The facts of a machine that an engine's conditions are held against: of this one, and of one that a worker told of."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.artifacts.accelerators import accelerators
from app.artifacts.envelope import Condition
from app.artifacts.nvidia import query

PACKAGE = "package:"
VARIANTS = {  # distributions that give the same runtime; one condition stands for all of them
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}
GPU_FIELDS = {"name": "gpu", "driver_version": "driver", "compute_cap": "compute_capability"}


def this_machine(conditions: Sequence[Condition]) -> dict[str, Any]:
    """The facts of this machine that some conditions ask for. `nvidia-smi` is asked only where one is on a GPU."""
    facts: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": processors(),
        "packages_complete": True,
        **cpu_facts(),
        "accelerators": accelerators(),
    }
    library, number = platform.libc_ver()
    if library == "glibc":
        facts["glibc"] = number
    wanted = {condition.what for condition in conditions}
    for name in (one.removeprefix(PACKAGE) for one in wanted if one.startswith(PACKAGE)):
        if (found := installed(name)) is not None:
            facts[f"{PACKAGE}{name}"] = found
    if wanted & set(GPU_FIELDS.values()):
        facts |= gpu_facts()
    return facts


def of_worker(hardware: Mapping[str, Any], runtimes: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a worker's machine, from what it said of its hardware and of the runtimes that it offers."""
    facts = {
        "system": hardware.get("system"),
        "architecture": hardware.get("architecture"),
        "cpu": hardware.get("cpu"),
        "cpu_features": hardware.get("cpu_features"),
        "processors": hardware.get("cores"),
        "glibc": hardware.get("glibc"),
        "accelerators": hardware.get("accelerators"),
    }
    if gpus := hardware.get("gpus"):
        facts |= {
            "gpu": [gpu.get("name") for gpu in gpus],
            "driver": [gpu.get("driver") for gpu in gpus],
            "compute_capability": [gpu.get("compute_capability") for gpu in gpus],
        }
    elif gpus is not None:
        facts |= {name: [] for name in GPU_FIELDS.values()}
    for told in runtimes.values():
        for package, found in told.get("versions", {}).items():
            facts[f"{PACKAGE}{_stands_for(package)}"] = found
    return {name: value for name, value in facts.items() if value is not None}


def installed(package: str) -> str | None:
    """The version of a package here, whichever of its variants that is; None: there is none."""
    for name in VARIANTS.get(package, (package,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def processors() -> int:
    """Processors that this process may use (its affinity, where the system knows one)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """`cpu`, its name, and `cpu_features`, all of them as Linux names them; {} where the system does not say."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    facts: dict[str, Any] = {}
    if flags := fields.get("flags") or fields.get("Features"):
        facts["cpu_features"] = sorted(flags.split())
    if "model name" in fields:
        facts["cpu"] = fields["model name"]
    return facts


def gpu_facts() -> dict[str, list[str]]:
    """`gpu`, `driver` and `compute_capability`, one entry a GPU; empty lists where there is none that answers."""
    found = query(GPU_FIELDS)
    return {name: [one[name] for one in found] for name in GPU_FIELDS.values()}


def _stands_for(package: str) -> str:
    return next((name for name, variants in VARIANTS.items() if package in variants), package)
