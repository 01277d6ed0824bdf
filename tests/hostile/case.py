"""One hostile file: its name, how its bytes are made, and what the service may say to it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

READY = "ready"
MODEL_CODES = ("invalid_model",)
MAX_ARCHIVE_BYTES = 16 * 1024 * 1024
MAX_ARCHIVE_FILES = 1000


@dataclass(frozen=True)
class Hostile:
    """`codes` are the right answers: codes of problems, `ready` for what is strange and harmless."""

    name: str
    make: Callable[[], bytes]
    codes: frozenset[str]
    subject: str = "model"
    phrase: str = ""  # what the problem's detail must hold


def case(
    name: str, make: Callable[[], bytes], *codes: str, subject: str = "model", phrase: str = ""
) -> Hostile:
    """A hostile file; without codes it must be `invalid_model`, or `invalid_dataset`."""
    usual = ("invalid_model",) if subject == "model" else ("invalid_dataset",)
    return Hostile(name, make, frozenset(codes or usual), subject, phrase)


def family(prefix: str, *cases: Hostile | Iterable[Hostile]) -> list[Hostile]:
    """Cases whose names begin alike."""
    flat = [one for item in cases for one in ([item] if isinstance(item, Hostile) else item)]
    return [Hostile(f"{prefix}/{one.name}", one.make, one.codes, one.subject, one.phrase) for one in flat]


def each(
    made: Mapping[str, Callable[[], bytes]], *codes: str, subject: str = "model", phrase: str = ""
) -> list[Hostile]:
    """Cases that are answered alike."""
    return [case(name, make, *codes, subject=subject, phrase=phrase) for name, make in made.items()]
