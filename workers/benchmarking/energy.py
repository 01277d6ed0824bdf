"""The energy that a machine says it used: RAPL for its processors (the kernel's powercap), NVML's power for a GPU."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from workers import gpu

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Used:
    """What was used, and who said so."""

    joules: float
    seconds: float
    source: str


class Meter:
    """Reads the energy used while the block runs; `used` is None where the machine does not tell. `powercap`: where RAPL is."""

    def __init__(self, device: str, powercap: Path = POWERCAP):
        self._on_gpu = device == "cuda"
        self._zones = [] if self._on_gpu else packages(powercap)
        self._watts: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True) if self._on_gpu else None
        self.used: Used | None = None

    def __enter__(self) -> "Meter":
        self._started = time.monotonic()
        self._before = [energy_joules(zone) for zone in self._zones]
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            if self._watts:
                self.used = Used(sum(self._watts) / len(self._watts) * seconds, seconds, "nvml")
        elif self._zones:
            after = [energy_joules(zone) for zone in self._zones]
            spans = zip(self._zones, self._before, after, strict=True)
            self.used = Used(
                sum(used_between(zone, first, last) for zone, first, last in spans), seconds, "rapl"
            )

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            watts = (gpu.state() or {}).get("watts")
            if isinstance(watts, float):
                self._watts.append(watts)


def packages(powercap: Path) -> list[Path]:
    """The zones of whole processors whose energy this process may read."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") > 1:  # a part of a processor, counted with the whole
            continue
        try:
            energy_joules(zone)
        except (OSError, ValueError):
            continue
        found.append(zone)
    return found


def energy_joules(zone: Path) -> float:
    """What a zone's counter says. Raises OSError where only root may read it."""
    return int((zone / "energy_uj").read_text()) / 1e6


def used_between(zone: Path, first: float, last: float) -> float:
    """The difference of two readings of a counter that begins anew at its range's end."""
    if last >= first:
        return last - first
    return last - first + int((zone / "max_energy_range_uj").read_text()) / 1e6
