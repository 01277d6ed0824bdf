"""Feeds: every rule of batches, and what does not fit."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from app.errors import SignatureMismatch
from tests.workers.formats.uploads import graph_model, value
from workers.feeds import FeedPlan, paired_plans, plan_feeds

Shape = tuple[int, ...]


def entry(name: str, shape: list[Any], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


def planned(shape: list[Any], sample: Shape, dtype: str = "float32", given: str = "float32") -> FeedPlan:
    return plan_feeds([entry("x", shape, dtype)], {"x": (given, sample)})


def test_a_free_batch_takes_any_number() -> None:
    plan = planned([None, 3], (3,))
    assert (plan.fixed_batch, plan.batchable, plan.max_batch, plan.notes) == (None, True, None, ())
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    assert [(feeds["x"].tolist(), count) for feeds, count in plan.feeds({"x": values}, 2)] == [
        (values[:2].tolist(), 2), (values[2:4].tolist(), 2), (values[4:].tolist(), 1),
    ]  # fmt: skip
    ((feeds, count),) = plan.feeds({"x": values})
    assert (feeds["x"].shape, count) == ((5, 3), 5)


def test_a_fixed_batch_is_filled_with_the_last_sample_and_cut_again() -> None:
    """Through ONNX Runtime, which takes no other batch: seven samples in runs of three."""
    plan = planned([3, 2], (2,))
    assert (plan.fixed_batch, plan.batchable, plan.max_batch) == (3, True, 3)
    model = graph_model([helper.make_node("Neg", ["x"], ["y"])], [value("x", [3, 2])], [value("y", [3, 2])])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    runs = list(plan.feeds({"x": values}, size=100))
    assert [count for _, count in runs] == [3, 3, 1]
    assert runs[-1][0]["x"].tolist() == [values[6].tolist()] * 3
    outputs = [plan.cut({"y": session.run(None, feeds)[0]}, count)["y"] for feeds, count in runs]
    np.testing.assert_array_equal(np.concatenate(outputs), -values)


def test_an_input_of_one_rank_less_takes_one_sample() -> None:
    """So that the array's samples are whole inputs, as recurrent states and scalars need."""
    inputs = [entry("x", [None, 4]), entry("state", [2, None, 8]), entry("sr", [], "int64")]
    plan = plan_feeds(
        inputs, {"x": ("float32", (1, 4)), "state": ("float32", (2, 1, 8)), "sr": ("int64", ())}
    )
    assert (plan.batchable, plan.max_batch) == (False, 1)
    batch = {
        "x": np.arange(12, dtype=np.float32).reshape(3, 1, 4),
        "state": np.zeros((3, 2, 1, 8), np.float32),
        "sr": np.array([1, 2, 3]),
    }
    runs = list(plan.feeds(batch, size=3))
    assert [count for _, count in runs] == [1, 1, 1]
    assert [feeds["sr"].tolist() for feeds, _ in runs] == [1, 2, 3]
    assert {name: array.shape for name, array in runs[0][0].items()} == {
        "x": (1, 4),
        "state": (2, 1, 8),
        "sr": (),
    }
    assert plan.cut({"y": np.ones((1, 5))}, 1)["y"].shape == (1, 1, 5)


def test_where_ranks_differ_every_input_takes_one_sample() -> None:
    inputs = [entry("x", [None, 4]), entry("sr", [], "int64")]
    plan = plan_feeds(inputs, {"x": ("float32", (4,)), "sr": ("int64", ())})
    runs = list(plan.feeds({"x": np.ones((2, 4), np.float32), "sr": np.array([8, 16])}))
    assert [(feeds["x"].shape, int(feeds["sr"])) for feeds, _ in runs] == [((1, 4), 8), ((1, 4), 16)]


def test_outputs_without_a_sample_axis_are_kept_whole() -> None:
    plan = planned([4, 2], (2,))
    cut = plan.cut({"rows": np.ones((4, 5)), "state": np.ones((2, 4, 8)), "loss": np.float32(1)}, 3)
    assert {name: array.shape for name, array in cut.items()} == {
        "rows": (3, 5),
        "state": (1, 2, 4, 8),
        "loss": (1,),
    }


@pytest.mark.parametrize(
    ("shape", "sample", "said"),
    [
        ([None, 3], (4,), "dimension 1 of input 'x' is 3, in the dataset it is 4"),
        ([None, 3, None], (4, 9), "dimension 1"),
        ([7, 3], (5, 3), "dimension 0 of input 'x' is 7, in the dataset it is 5"),
        ([None, 3], (1, 2, 3), "2 dimensions"),
        ([None, 3, 4], (), "3 dimensions"),
    ],
)
def test_shapes_that_do_not_fit_name_the_dimension(shape: list[Any], sample: Shape, said: str) -> None:
    with pytest.raises(SignatureMismatch, match=said) as caught:
        planned(shape, sample)
    assert caught.value.param == "x"


def test_a_missing_array_is_named_with_those_there_are() -> None:
    with pytest.raises(SignatureMismatch, match=r"no array for input 'x'.*\['a', 'b'\]"):
        plan_feeds([entry("x", [None, 3])], {"a": ("float32", (3,)), "b": ("float32", (3,))})


def test_arrays_that_no_input_takes_are_left_out() -> None:
    plan = plan_feeds([entry("x", [None])], {"x": ("float32", ()), "more": ("float32", ())})
    ((feeds, _),) = plan.feeds({"x": np.ones(2, np.float32), "more": np.ones(2, np.float32)})
    assert list(feeds) == ["x"]


@pytest.mark.parametrize(
    ("inputs", "said"), [([[2, 3], [4, 3]], r"different sizes: \[2, 4\]"), ([[2, 3], [3]], "others 2")]
)
def test_batches_that_contradict_each_other_are_refused(inputs: list[list[int]], said: str) -> None:
    named = [entry(name, shape) for name, shape in zip("ab", inputs, strict=True)]
    with pytest.raises(SignatureMismatch, match=said):
        plan_feeds(named, {"a": ("float32", (3,)), "b": ("float32", (3,))})


@pytest.mark.parametrize(
    ("given", "wanted", "note"),
    [
        ("float32", "float32", False), ("float32", "float64", False), ("float64", "float32", True),
        ("float32", "float16", True), ("int32", "int64", False), ("int64", "int32", False),
        ("uint8", "float32", False), ("bool", "float32", False), ("bool", "int64", False),
    ],
)  # fmt: skip
def test_types_that_fit_are_cast_and_loss_is_noted(given: str, wanted: str, note: bool) -> None:
    plan = planned([None], (), wanted, given)
    assert bool(plan.notes) is note
    ((feeds, _),) = plan.feeds({"x": np.array([0, 1, 1], given)})
    assert feeds["x"].dtype == np.dtype(wanted)
    assert feeds["x"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("float32", "int64"),
        ("int64", "float32"),
        ("float32", "bool"),
        ("string", "float32"),
        ("float32", "string"),
    ],
)
def test_types_of_another_kind_are_refused(given: str, wanted: str) -> None:
    with pytest.raises(SignatureMismatch, match=f"takes {wanted}, the dataset has {given}"):
        planned([None], (), wanted, given)


@pytest.mark.parametrize(
    ("given", "wanted", "value_"),
    [
        ("int64", "int32", 2**40),
        ("int64", "uint8", -1),
        ("float64", "float32", 1e300),
        ("float32", "float16", 1e6),
    ],
)
def test_a_value_that_the_input_cannot_hold_is_refused(given: str, wanted: str, value_: float) -> None:
    plan = planned([None], (), wanted, given)
    with pytest.raises(SignatureMismatch, match=f"takes {wanted}, which cannot hold"):
        list(plan.feeds({"x": np.array([0, value_], given)}))


def test_infinity_stays_infinity() -> None:
    ((feeds, _),) = planned([None], (), "float16", "float64").feeds({"x": np.array([np.inf, np.nan])})
    assert np.isinf(feeds["x"][0])
    assert np.isnan(feeds["x"][1])


def test_text_reaches_the_engine_as_text() -> None:
    plan = planned([None], (), "string", "string")
    model = graph_model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", [None], 8)], [value("y", [None], 8)]
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for texts in (np.array(["a", "ü"]), np.array([b"a", "ü".encode()])):
        ((feeds, _),) = plan.feeds({"x": texts})
        assert session.run(None, feeds)[0].tolist() == ["a", "ü"]


def test_the_fixed_batch_of_one_engine_is_the_others_too() -> None:
    free, fixed = [entry("x", [None, 2])], [entry("x", [3, 2])]
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    for first, second in ((free, fixed), (fixed, free)):
        plans = paired_plans(first, second, {"x": ("float32", (2,))})
        assert [plan.fixed_batch for plan in plans] == [3, 3]
        one, other = (
            [(feeds["x"].tolist(), n) for feeds, n in plan.feeds({"x": values}, 1)] for plan in plans
        )
        assert one == other
        assert [count for _, count in one] == [3, 3, 1]
    assert paired_plans(free, free, {"x": ("float32", (2,))})[1].fixed_batch is None


@pytest.mark.parametrize(
    ("first", "second", "sample", "told"),
    [
        ([2, 3], [4, 3], (3,), "takes batches of 4, the original batches of 2"),
        ([None, 3], [3], (3,), "takes single samples, the original batches of any size"),
        ([None, None], [None, 5], (3,), "dimension 1 of input 'x' is 5, in the dataset it is 3"),
    ],
    ids=["two-batches", "single-samples", "another-size"],
)
def test_engines_that_share_no_run_are_refused(
    first: list[Any], second: list[Any], sample: Shape, told: str
) -> None:
    with pytest.raises(SignatureMismatch, match=told):
        paired_plans([entry("x", first)], [entry("x", second)], {"x": ("float32", sample)})
