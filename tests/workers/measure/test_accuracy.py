"""Accuracy of two engines over the same samples: values, intervals, drops, budgets, and what does not fit."""

import numpy as np
import pytest

from app.errors import InvalidDataset, InvalidModel, SignatureMismatch
from app.measurements.compare import paired_share_interval, share_interval
from tests.workers.engines.networks import ArraySamples
from tests.workers.measure.engines import FunctionEngine, Run
from workers.measure.accuracy import Accuracy
from workers.measure.side_by_side import run_side_by_side

CLASSES = 5


def answers(wrong: set[int]) -> Run:
    """Scores that are right (x holds sample number and class) but for some samples."""

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        number, label = feeds["x"].T.astype(int)
        label = np.where(np.isin(number, list(wrong)), (label + 1) % CLASSES, label)
        return {"y": np.eye(CLASSES, dtype=np.float32)[label]}

    return run


def labelled(count: int) -> ArraySamples:
    labels = np.arange(count) % CLASSES
    return ArraySamples({"x": np.stack([np.arange(count), labels], axis=1).astype(np.float32)}, labels)


def engine(run: Run, batch: int | None = None) -> FunctionEngine:
    return FunctionEngine(run, {"x": [batch, 2]}, ["y"])


def gathered(
    metric: str,
    first: FunctionEngine,
    second: FunctionEngine,
    samples: ArraySamples,
    output: str | None = None,
) -> Accuracy:
    accuracy = Accuracy(metric, output)
    for run in run_side_by_side(first, second, samples):
        accuracy.observe(run)
    return accuracy


@pytest.mark.parametrize("batch", [None, 1, 8, 64])  # 8 and 64 leave a rest of 100 to be filled up
def test_shares_and_their_drop(batch: int | None):
    found = gathered(
        "top1",
        engine(answers({1, 2, 3}), batch),
        engine(answers({3, 50, 60, 70, 99}), batch),
        labelled(100),
    )
    before, after, drop = found.of_baseline(0), found.of_optimized(0), found.drop(0)
    assert before is not None
    wilson = share_interval(97, 100)
    assert before == {
        "value": 0.97, "low": wilson.low, "high": wilson.high, "samples": 100, "metric": "top1", "unit": "1",
    }  # fmt: skip
    assert after["value"] == 0.95
    assert drop == paired_share_interval(4, 2, 100)


@pytest.mark.parametrize(
    ("count", "wrong", "max_drop", "decision"),
    [
        (500, set(), 0.01, True),
        (100, set(), 0.01, "undecided"),
        (200, set(range(30)), 0.01, False),
        (500, {1, 2, 3}, 0.01, "undecided"),
    ],
)
def test_budgets(count: int, wrong: set[int], max_drop: float, decision: object):
    found = gathered("top1", engine(answers(set())), engine(answers(wrong)), labelled(count))
    assert found.within_budget(max_drop, 0)[0] == decision
    needed = found.within_budget(max_drop, 0)[1]
    assert (needed is not None and needed > count) if decision == "undecided" else needed is None


def test_the_number_needed_was_enough():
    few = gathered("top1", engine(answers(set())), engine(answers(set())), labelled(100))
    decision, needed = few.within_budget(0.02, 0)
    assert decision == "undecided"
    assert needed is not None
    more = gathered("top1", engine(answers(set())), engine(answers(set())), labelled(needed))
    assert more.within_budget(0.02, 0) == (True, None)


def test_a_lower_error_is_no_drop():
    """For a metric where lower is better the drop is positive where the error grows."""
    samples = ArraySamples(
        {"x": np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)}, np.zeros((300, 2))
    )
    plain, louder = (engine(lambda feeds, k=k: {"y": feeds["x"] * k}) for k in (1.0, 1.5))
    worse, better = (gathered("mae", *pair, samples).drop(0) for pair in ((plain, louder), (louder, plain)))
    assert worse is not None
    assert better is not None
    assert 0 < worse.low < worse.value < worse.high
    assert worse.value == pytest.approx(0.5 * np.sqrt(2 / np.pi), abs=0.05)
    assert better.value == pytest.approx(-worse.value)


def test_samples_are_paired():
    """A small shift of very different samples is certain: its interval is that of the differences."""
    samples = ArraySamples(
        {"x": 100 * np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)}, np.zeros((200, 2))
    )
    found = gathered("mae", engine(lambda f: {"y": f["x"]}), engine(lambda f: {"y": f["x"] * 1.01}), samples)
    before, drop = found.of_baseline(0), found.drop(0)
    assert before is not None
    assert drop is not None
    assert drop.low > 0
    assert before["high"] - before["low"] > 20 * (drop.high - drop.low)


def test_positions_that_agree_leave_a_width():
    """Labels a position: scores are shares, no sample differs, and 20 samples do not prove that none does."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (20, 4))
    samples = ArraySamples({"x": random.standard_normal((20, 4, 3)).astype(np.float32)}, labels)
    same = FunctionEngine(lambda feeds: {"y": feeds["x"]}, {"x": [None, 4, 3]}, ["y"])
    drop = gathered("top1", same, same, samples).drop(0)
    assert drop is not None
    assert (drop.value, drop.high) == (0, pytest.approx(paired_share_interval(0, 0, 20).high))


def test_a_paired_metric_has_no_drop():
    samples = ArraySamples({"x": np.ones((50, 2), np.float32)})
    found = gathered("snr", engine(lambda f: {"y": f["x"]}), engine(lambda f: {"y": f["x"] * 0.9}), samples)
    assert found.of_baseline(0) is None
    assert found.drop(0) is None
    assert found.within_budget(0.1, 0) == (None, None)
    assert found.of_optimized(0)["value"] == pytest.approx(20, abs=1e-4)


def test_the_named_output_counts():
    both = FunctionEngine(
        lambda feeds: {"other": feeds["x"], "y": answers(set())(feeds)["y"]}, {"x": [None, 2]}, ["other", "y"]
    )
    found = gathered("top1", both, both, labelled(30), output="y")
    assert found.of_optimized(0)["value"] == 1
    with pytest.raises(SignatureMismatch, match="no output called 'z'"):
        gathered("top1", both, both, labelled(30), output="z")


def test_inputs_of_one_sample_at_a_time():
    """Rank one less than the array's: no batch axis in the model at all."""
    one = FunctionEngine(
        lambda feeds: {"y": answers({4})({"x": feeds["x"][None]})["y"][0]}, {"x": [2]}, ["y"]
    )
    assert gathered("top1", one, one, labelled(20)).of_optimized(0)["value"] == 0.95


def test_an_output_without_a_row_a_sample_is_refused():
    total = engine(lambda feeds: {"y": feeds["x"].sum()})
    with pytest.raises(SignatureMismatch, match="does not count samples"):
        gathered("top1", total, total, labelled(5))


def test_a_label_that_is_no_class_is_named_by_its_place_in_the_dataset():
    samples = labelled(70)
    samples._labels[61] = 99
    right = engine(answers(set()))
    with pytest.raises(InvalidDataset, match="sample 61 is 99"):
        gathered("top1", right, right, samples)


def test_outputs_that_are_not_finite_cannot_be_averaged():
    samples = ArraySamples({"x": np.ones((40, 2), np.float32)}, np.ones((40, 2)))
    broken = engine(lambda feeds: {"y": feeds["x"] * np.nan})
    with pytest.raises(InvalidModel, match="optimized model's output gives no finite mae for sample 0"):
        gathered("mae", engine(lambda f: {"y": f["x"]}), broken, samples)


def test_labels_must_be_there():
    right = engine(answers(set()))
    with pytest.raises(InvalidDataset, match="needs labels"):
        gathered("top1", right, right, ArraySamples({"x": np.ones((3, 2), np.float32)}))


def test_a_lost_output_is_an_error():
    with pytest.raises(InvalidModel, match="lacks the output 'y'"):
        gathered(
            "top1",
            engine(answers(set())),
            FunctionEngine(answers(set()), {"x": [None, 2]}, ["z"]),
            labelled(3),
        )


def test_another_batch_size_is_an_error():
    with pytest.raises(SignatureMismatch, match="batches of 4"):
        gathered("top1", engine(answers(set()), 2), engine(answers(set()), 4), labelled(8))


@pytest.mark.parametrize("batch", [1, 4, 7, 40])
def test_an_engine_of_a_fixed_batch_is_compared_with_one_of_a_free_batch(batch: int):
    """Whatever is left of the last batch: every sample counts once, in both engines, in order."""
    seen: dict[str, set[int]] = {"free": set(), "fixed": set()}

    def watched(side: str, wrong: set[int]) -> Run:
        def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            seen[side].add(len(feeds["x"]))
            return answers(wrong)(feeds)

        return run

    free, fixed = engine(watched("free", {3})), engine(watched("fixed", {3, 41}), batch)
    for first, second, values in ((free, fixed, (0.98, 0.96)), (fixed, free, (0.96, 0.98))):
        found = gathered("top1", first, second, labelled(50))
        before, after = found.of_baseline(0), found.of_optimized(0)
        assert before is not None
        assert (before["value"], after["value"], after["samples"]) == (*values, 50)
    assert seen == {"free": {batch}, "fixed": {batch}}
