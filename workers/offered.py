"""The runtimes that workers of this machine may offer."""

from app.catalog.runtimes import RUNTIMES
from app.config import get_settings


def offered() -> list[str]:
    """What `BURNISH_RUNTIMES` names, else all of the catalog.

    Raises:
        ValueError: it names one that is not in the catalog.
    """
    named = [name.strip() for name in get_settings().runtimes.split(",") if name.strip()]
    if unknown := sorted(set(named) - set(RUNTIMES)):
        raise ValueError(f"BURNISH_RUNTIMES names {', '.join(unknown)}; there are {', '.join(RUNTIMES)}")
    return named or list(RUNTIMES)
