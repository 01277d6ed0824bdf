"""`docs/engines.md` has a row for everything, and says what still holds."""

from pathlib import Path

import pytest

from tests.matrix.engines import PAGE, combinations, judge
from tests.workers.tensorrt.networks import exported
from workers.gpu import gpus

ROWS = {
    tuple(cell.strip(" `") for cell in line.split("|")[1:5]): [
        cell.strip(" `") for cell in line.split("|")[5:-1]
    ]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
}


def test_every_combination_has_a_row() -> None:
    assert list(ROWS) == list(combinations())


@pytest.mark.parametrize("row", list(ROWS)[::17], ids=" ".join)
def test_a_row_still_holds(row: tuple[str, str, str, str], tmp_path: Path) -> None:
    target, precision, kind, shapes = row
    found = judge(target, precision, exported(kind, shapes, tmp_path / "network"), tmp_path / "made", turns=1)
    built, time, size, loaded, run, _ = ROWS[row]
    assert built == (found.refused or "yes")
    assert (found.time_ratio is None, found.size_ratio is None) == (time == "–", size == "–")
    if found.size_ratio is not None:
        assert float(size.rstrip("×")) == pytest.approx(found.size_ratio, rel=0.3)
    if not gpus() or not target.startswith("tensorrt"):
        assert loaded == ("yes" if found.loaded else "no")
        assert (run == "no") == (found.signal_db is None)
