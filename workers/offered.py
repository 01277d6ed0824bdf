"""The runtimes that workers of this machine may offer."""

from collections.abc import Iterable

from app.artifacts.accelerators import ALL, accelerators
from app.catalog.runtimes import RUNTIMES
from app.config import get_settings


def without_absent(names: Iterable[str]) -> list[str]:
    """These less those for an Intel GPU or NPU that is not here: so much is told by a few files, without OpenVINO.

    What builds ahead of time stays: it needs no device.
    """
    here = accelerators()
    return [
        name
        for name in names
        if RUNTIMES[name].ahead_of_time or RUNTIMES[name].device not in ALL or RUNTIMES[name].device in here
    ]


def offered() -> list[str]:
    """What `BURNISH_RUNTIMES` names, else all of the catalog.

    Raises:
        ValueError: it names one that is not in the catalog.
    """
    named = [name.strip() for name in get_settings().runtimes.split(",") if name.strip()]
    if unknown := sorted(set(named) - set(RUNTIMES)):
        raise ValueError(f"BURNISH_RUNTIMES names {', '.join(unknown)}; there are {', '.join(RUNTIMES)}")
    return named or list(RUNTIMES)
