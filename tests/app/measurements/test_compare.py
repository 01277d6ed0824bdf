"""Intervals against exact probabilities, verdicts and decisions case by case."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.measurements.compare import (
    CONTROL_LIMIT,
    CONTROL_TOLERANCE,
    NEGLIGIBLE,
    PRECISE,
    Interval,
    Z,
    budget_decision,
    paired_share_interval,
    samples_needed_for_means,
    samples_needed_for_shares,
    share_interval,
    speed_verdict,
    student_t,
)

QUIET = Interval(1.0, 0.995, 1.005)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 37, 999])
def test_students_quantiles(freedom: int):
    assert student_t(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-9)


def test_students_quantile_becomes_normal():
    assert student_t(0.975, 10_000) == pytest.approx(Z)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_interval_of_a_share_holds_the_truth(share: float):
    count = 60
    covered = sum(
        stats.binom.pmf(hits, count, share)
        for hits in range(count + 1)
        if share_interval(hits, count).low <= share <= share_interval(hits, count).high
    )
    assert covered > 0.92


def test_a_share_of_all_or_nothing_is_not_certain():
    assert share_interval(0, 10) == Interval(0.0, 0.0, pytest.approx(0.2775, abs=1e-4))
    assert share_interval(10, 10) == Interval(1.0, pytest.approx(0.7225, abs=1e-4), 1.0)


def test_the_paired_interval_as_others_have_it():
    """The airway data of Fagerland et al. 2014, with Tango's limits as R's package ratesci quotes them."""
    found = paired_share_interval(1, 7, 21)
    assert (found.low, found.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


def test_pairs_that_never_differ_leave_a_width():
    found = paired_share_interval(0, 0, 360)
    assert found.high == pytest.approx(Z**2 / (360 + Z**2))
    assert found.low == -found.high


@pytest.mark.parametrize(
    ("count", "first_only", "second_only"),
    [(20, 0.1, 0.05), (20, 0.3, 0.1), (50, 0.02, 0.02), (50, 0.2, 0.0), (50, 0.05, 0.15)],
)
def test_the_paired_interval_holds_the_truth(count: int, first_only: float, second_only: float):
    """Over every outcome, each with its exact probability."""
    truth, covered = first_only - second_only, 0.0
    for b in range(count + 1):
        for c in range(count + 1 - b):
            rest = [b, c, count - b - c]
            probability = stats.multinomial.pmf(
                rest, count, [first_only, second_only, 1 - first_only - second_only]
            )
            if probability > 1e-7:
                found = paired_share_interval(b, c, count)
                covered += probability * (found.low <= truth <= found.high)
    assert covered > 0.94


@given(st.integers(1, 300), st.data())
def test_the_paired_interval_holds_its_value_and_mirrors(count: int, data: st.DataObject):
    b = data.draw(st.integers(0, count))
    c = data.draw(st.integers(0, count - b))
    found, mirrored = paired_share_interval(b, c, count), paired_share_interval(c, b, count)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert found.low == pytest.approx(-mirrored.high, abs=1e-9)


@pytest.mark.parametrize(
    ("speedup", "control", "verdict"),
    [
        (Interval(3.0, 2.8, 3.2), QUIET, "faster"),
        (Interval(0.3, 0.28, 0.33), QUIET, "slower"),
        (Interval(1.0, 0.99, 1.01), QUIET, "no_difference"),
        (Interval(1.01, 1.005, 1.015), QUIET, "no_difference"),  # significant, and negligible
        (Interval(1.05, 1.03, 1.07), QUIET, "faster"),
        (Interval(0.95, 0.93, 0.97), QUIET, "slower"),
        (Interval(1.05, 0.8, 1.4), QUIET, "unstable"),  # might be anything
        (Interval(1.0, 0.85, 1.02), QUIET, "unstable"),
        (Interval(3.0, 2.8, 3.2), Interval(1.1, 1.05, 1.15), "unstable"),  # the control is biased
        (Interval(3.0, 2.8, 3.2), Interval(0.9, 0.85, 0.95), "unstable"),
        (Interval(3.0, 2.8, 3.2), Interval(1.0, 0.6, 1.1), "unstable"),  # the control says nothing
        (Interval(3.0, 2.8, 3.2), Interval(1.0, 0.8, 1.2), "faster"),  # wide, and far less than the claim
        (
            Interval(1.1, 1.05, 1.15),
            Interval(1.0, 0.85, 1.1),
            "unstable",
        ),  # the claim is no more than the noise
    ],
)
def test_verdicts(speedup: Interval, control: Interval, verdict: str):
    assert speed_verdict(speedup, control) == verdict


ratios = st.floats(0.05, 20)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, value, high = sorted(draw(st.tuples(ratios, ratios, ratios)))
    return Interval(value, low, high)


@given(intervals(), intervals())
def test_no_claim_without_grounds(speedup: Interval, control: Interval):
    verdict = speed_verdict(speedup, control)
    if verdict in ("faster", "slower"):
        assert not speedup.low <= 1 <= speedup.high
        assert max(speedup.value, 1 / speedup.value) > 1 + NEGLIGIBLE
        assert (verdict == "faster") == (speedup.value > 1)
    if verdict == "no_difference":
        assert 1 / (1 + PRECISE) - 1e-9 <= speedup.low <= speedup.high <= 1 + PRECISE + 1e-9
    if verdict != "unstable":
        assert control.low <= 1 + CONTROL_TOLERANCE + 1e-9
        assert control.high <= 1 + CONTROL_LIMIT + 1e-9


@given(intervals(), intervals())
def test_verdicts_do_not_depend_on_who_is_first(speedup: Interval, control: Interval):
    def turned(one: Interval) -> Interval:
        return Interval(1 / one.value, 1 / one.high, 1 / one.low)

    opposite = {"faster": "slower", "slower": "faster"}
    verdict = speed_verdict(speedup, control)
    assert speed_verdict(turned(speedup), turned(control)) == opposite.get(verdict, verdict)


@pytest.mark.parametrize(
    ("drop", "decision"),
    [
        (Interval(0.0, -0.002, 0.009), True),
        (Interval(0.005, 0.0, 0.01), True),  # the bound is allowed
        (Interval(0.03, 0.011, 0.05), False),
        (Interval(0.0, -0.02, 0.02), "undecided"),
        (Interval(0.03, 0.01, 0.05), "undecided"),
        (Interval(-0.05, -0.06, -0.04), True),
    ],
)
def test_budgets_are_held_by_the_bound(drop: Interval, decision: object):
    assert budget_decision(drop, 0.01) == decision


def test_the_number_needed_decides():
    needed = samples_needed_for_shares(0, 0, 100, 0.01)
    assert needed is not None
    assert budget_decision(paired_share_interval(0, 0, 100), 0.01) == "undecided"
    assert budget_decision(paired_share_interval(0, 0, needed), 0.01) is True
    assert budget_decision(paired_share_interval(0, 0, needed - 3), 0.01) == "undecided"

    needed = samples_needed_for_shares(6, 1, 200, 0.01)
    assert needed is not None
    factor = needed / 200
    assert budget_decision(paired_share_interval(6 * factor, factor, needed), 0.01) is False


def test_no_number_decides_a_drop_that_is_the_budget():
    assert samples_needed_for_shares(3, 0, 300, 0.01) is None
    assert samples_needed_for_shares(0, 0, 300, 0.0) is None
    assert samples_needed_for_means(Interval(0.5, 0.1, 0.9), 50, 0.5) is None


def test_the_number_needed_for_a_mean():
    drop = Interval(0.2, 0.0, 0.4)
    assert samples_needed_for_means(drop, 100, 0.3) == pytest.approx(400, abs=1)
    assert samples_needed_for_means(drop, 100, 0.1) == pytest.approx(400, abs=1)
    assert samples_needed_for_means(Interval(0.2, -math.inf, math.inf), 1, 0.3) is None
