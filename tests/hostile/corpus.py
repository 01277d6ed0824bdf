"""Every hostile file there is."""

import importlib
from pathlib import Path

from tests.hostile.case import Hostile

_KNOWN = ("case", "forks", "judge", "corpus", "fuzzing", "conftest", "uploading")


def families() -> list[str]:
    """The files that hold cases."""
    found = (path.stem for path in sorted(Path(__file__).parent.glob("*.py")))
    return [stem for stem in found if stem not in _KNOWN and not stem.startswith("test_")]


CORPUS: dict[str, Hostile] = {
    one.name: one for stem in families() for one in importlib.import_module(f"tests.hostile.{stem}").CASES
}
