"""What rows take of runs, where others interrupt them."""

import random

import pytest

from workers.profiling.turns import settled


def test_rows_of_quiet_runs_are_their_means() -> None:
    found = settled([{"a": 1.0 + 0.01 * number, "b": 3.0 + 0.03 * number} for number in range(9)])
    assert found == pytest.approx({"a": 1.04, "b": 3.12})


def test_an_interruption_is_no_time_of_the_row_that_it_hit() -> None:
    chance = random.Random(0)
    runs = []
    for _ in range(40):
        run = {"a": 0.5, "b": 0.5, "c": 0.75, "d": 1.0}
        run[chance.choices("abcd", run.values())[0]] += 4.0  # others get the processor once in each run
        runs.append(run)
    found = settled(runs)
    assert sum(found.values()) == pytest.approx(6.75)
    assert {label: spent / found["a"] for label, spent in found.items()} == pytest.approx(
        {"a": 1, "b": 1, "c": 1.5, "d": 2}, rel=0.01
    )


def test_a_branch_counts_by_how_often_it_is_taken() -> None:
    runs = [{"a": 1.0, "yes": 2.0}] * 3 + [{"a": 1.0, "no": 4.0}]
    assert settled(runs) == pytest.approx({"a": 1.0, "yes": 1.5, "no": 1.0})


def test_runs_that_took_no_time_share_none_out() -> None:
    assert settled([{"a": 0.0}, {"a": 0.0}]) == {"a": 0.0}
