"""How far one installation reaches: what its operations cost, measured, and what a thousand workers would make of that, simulated."""

from pathlib import Path

from benchmarks import parts

PARTS = {
    "demands": "measured: processor time that each operation takes of PostgreSQL and of the process that asks",
    "hosts": "measured: a hundred jobs over four hosts with a network between them and the services",
    "load": "simulated: a thousand workers and a million jobs a day on those operations",
}
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "scale.md"


def main(arguments: list[str] | None = None) -> int:
    """Run parts by name, all where none is given."""
    return parts.main(__name__, PARTS, PAGE, arguments or [])
