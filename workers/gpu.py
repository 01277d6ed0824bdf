"""NVIDIA GPUs as `nvidia-smi` tells of them: which there are, and what they do now."""

from typing import Any

from app.artifacts.nvidia import query
from app.errors import OutOfMemory, Unavailable

_FACTS = {
    "name": "name", "uuid": "uuid", "memory.total": "memory_mib", "driver_version": "driver",
    "compute_cap": "compute_capability",
}  # fmt: skip
_STATE = {
    "clocks.sm": "sm_mhz", "clocks.max.sm": "sm_max_mhz", "clocks.mem": "memory_mhz", "temperature.gpu": "celsius",
    "power.draw": "watts", "memory.used": "memory_used_mib", "memory.free": "memory_free_mib", "pstate": "performance_state",
}  # fmt: skip


def gpus() -> list[dict[str, str]]:
    """The GPUs of this machine {name, uuid, memory_mib, driver, compute_capability}; [] where there is none."""
    return query(_FACTS)


def state() -> dict[str, Any] | None:
    """What the first GPU does now: clocks in MHz, temperature, power, memory in MiB; None where there is none.

    A field that the driver does not tell is None.
    """
    found = query(_STATE)
    return {name: _number(value) for name, value in found[0].items()} if found else None


def compute_capability() -> str:
    """The first GPU's compute capability, as in `8.9`.

    Raises:
        Unavailable: there is no GPU.
    """
    if found := gpus():
        return found[0]["compute_capability"]
    raise Unavailable(
        "there is no NVIDIA GPU here", stage="building", hint="run a worker on a machine that has one"
    )


def memory_used_bytes() -> int:
    """Memory of the first GPU that is taken, by whoever. 0 where there is no GPU."""
    return bytes_of((state() or {}).get("memory_used_mib"))


def bytes_of(mebibytes: Any) -> int:
    """A figure of `state` in bytes; 0 where the driver does not tell it."""
    return int(mebibytes * 2**20) if isinstance(mebibytes, int | float) else 0


def lease_name(device: str) -> str:
    """What a device is called where somebody measures on it alone: a GPU by its UUID, as a host may have several."""
    found = gpus() if device == "cuda" else []
    return found[0]["uuid"] if found else device


def require_free(needed_bytes: int) -> None:
    """Raises OutOfMemory where the first GPU has less memory free: others are on it, or it is too small."""
    told = state()
    if told is None or told["memory_free_mib"] is None:
        return
    free, used = bytes_of(told["memory_free_mib"]), bytes_of(told["memory_used_mib"])
    if free < needed_bytes:
        raise OutOfMemory(
            f"the GPU has {free / 2**30:.1f} GiB free and {used / 2**30:.1f} GiB taken; measuring these engines needs about "
            f"{needed_bytes / 2**30:.1f} GiB",
            stage="measuring",
            hint="free it (`nvidia-smi` lists who is on it), or use a GPU with more memory",
        )


def _number(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return None if text.startswith("[") else text
