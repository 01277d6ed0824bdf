"""Energy from counters like those of the kernel's powercap."""

from pathlib import Path

import pytest

from workers.benchmarking.energy import Meter, packages, used_between


def zone(root: Path, name: str, joules: float) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_the_energy_of_all_processors_is_counted_and_of_no_part_twice(tmp_path: Path) -> None:
    zones = [zone(tmp_path, f"intel-rapl:{number}", 100.0) for number in range(2)]
    zone(tmp_path, "intel-rapl:0:0", 50.0)
    assert packages(tmp_path) == zones
    with Meter("cpu", tmp_path) as meter:
        for number, one in enumerate(zones):
            (one / "energy_uj").write_text(f"{int((103.0 + number) * 1e6)}\n")
    assert meter.used is not None
    assert meter.used.joules == pytest.approx(7.0)
    assert meter.used.source == "rapl"
    assert meter.used.seconds > 0


def test_a_counter_that_began_anew(tmp_path: Path) -> None:
    one = zone(tmp_path, "intel-rapl:0", 0.0)
    assert used_between(one, 262143.0, 2.0) == pytest.approx(2.0 + 0.32885, abs=1e-4)


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    with Meter("cpu", tmp_path) as meter:
        pass
    assert meter.used is None
