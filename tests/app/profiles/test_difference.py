"""Two profiles held against each other by the layers of the model that both are of."""

from typing import Any

import pytest

from app.profiles.difference import changes, explaining
from app.profiles.schemas import Layer, Profile


def row(layers: list[str], ms: float, operator: str = "Conv", **fields: Any) -> Layer:
    return Layer(
        name="+".join(layers) or operator,
        operator=operator,
        layers=layers,
        calls=1,
        mean_ms=ms,
        share=0,
        **fields,
    )


def profile(*rows: Layer) -> Profile:
    total = sum(one.mean_ms for one in rows)
    return Profile(
        subject={},
        target={"runtime": "onnxruntime-cpu", "params": {}},
        batch=1,
        threads=1,
        runs=10,
        latency={"p50_ms": total, "low_ms": total, "high_ms": total, "launches": 5, "samples": 100},
        profiled_ms=total,
        layers_ms=total,
        layers=list(rows),
        machine={},
        versions={},
    )


def test_layers_that_either_profile_computes_together_are_compared_together() -> None:
    before = profile(row(["conv1"], 4.0), row(["relu1"], 1.0, "Relu"), row(["fc"], 2.0, "Gemm"))
    after = profile(row(["conv1", "relu1"], 3.0, "FusedConv"), row(["fc"], 2.1, "Gemm"))
    first, second = changes(before, after)
    assert (first.layers, first.what, first.difference_ms) == (("conv1", "relu1"), "faster", -2.0)
    assert first.before is not None
    assert first.before.operators == ("Conv", "Relu")
    assert second.what == "same"


def test_groups_grow_through_rows_that_share_a_layer() -> None:
    before = profile(row(["a", "b"], 1.0), row(["c"], 1.0))
    after = profile(row(["a"], 1.0), row(["b", "c"], 1.0))
    (only,) = changes(before, after)
    assert only.layers == ("a", "b", "c")
    assert only.what == "same"


def test_a_slowed_layer_is_what_explains_a_regression() -> None:
    rest = [row([f"conv{number}"], 1.0) for number in range(20)]
    before = profile(row(["slow"], 2.0, precision="int8", place="brgconv"), *rest)
    after = profile(row(["slow"], 12.0, precision="fp32", place="ref_any"), *rest, row([], 0.5, "Reorder"))
    found = changes(before, after)
    (named,) = explaining(found)
    assert named.name == "slow"
    assert named.words == "slower; int8 before, fp32 after; brgconv before, ref_any after"
    added = next(change for change in found if not change.layers)
    assert (added.what, added.name) == ("new", "(Reorder)")
    assert added.words == "is not there before"


def test_what_is_gone_is_named_too() -> None:
    before = profile(row(["a"], 1.0), row(["b"], 5.0))
    found = changes(before, profile(row(["a"], 1.0)))
    assert [(change.name, change.what) for change in explaining(found)] == [("b", "vanished")]


def test_a_difference_in_both_directions_is_explained_by_that_of_the_whole() -> None:
    before = profile(row(["a"], 5.0), row(["b"], 1.0), row(["c"], 3.0))
    after = profile(row(["a"], 1.0), row(["b"], 2.0), row(["c"], 2.5))
    assert [change.name for change in explaining(changes(before, after))] == ["a"]


@pytest.mark.parametrize(("before_ms", "slow_ms"), [(1.6, 2.7), (10.4, 42.0)], ids=["busy", "very-busy"])
def test_what_a_busy_machine_did_to_all_layers_explains_nothing(before_ms: float, slow_ms: float) -> None:
    """The first profile was made while others took most of the processor."""
    before = profile(*(row([f"conv{number}"], before_ms, flops=10) for number in range(4)))
    after = profile(
        *(row([f"conv{number}"], 0.5, flops=10) for number in (0, 1, 3)), row(["conv2"], slow_ms, flops=54)
    )
    found = changes(before, after)
    (named,) = explaining(found)
    assert (named.name, named.what) == ("conv2", "slower")
    assert named.pace == pytest.approx(0.5 / before_ms)
    assert named.difference_ms == pytest.approx(slow_ms - 0.5)
    assert {change.what for change in found if change is not named} == {"same"}


def test_what_layers_that_are_computed_alike_differ_by_is_chance() -> None:
    before = profile(*(row([f"conv{number}"], 1.0, flops=10) for number in range(6)))
    times = [0.8, 1.25, 0.9, 1.15, 1.4, 3.0]
    after = profile(*(row([f"conv{number}"], ms, flops=10) for number, ms in enumerate(times)))
    assert [change.name for change in explaining(changes(before, after))] == ["conv5"]


@pytest.mark.parametrize("field", ["precision", "place", "layout", "operator", "flops"])
def test_layers_that_are_computed_otherwise_tell_nothing_of_the_machine(field: str) -> None:
    told = {"flops": (10, 20)}.get(field, ("one", "other"))
    before, after = (
        profile(*(row([f"conv{number}"], ms, **{field: value}) for number in range(6)))
        for ms, value in zip((1.0, 2.0), told, strict=True)
    )
    found = changes(before, after)
    assert len(explaining(found)) == 5
    assert {(change.what, change.pace) for change in found} == {("slower", 1.0)}


def test_another_release_or_target_may_be_slower_everywhere() -> None:
    before = profile(*(row([f"conv{number}"], 1.0) for number in range(6)))
    after = profile(*(row([f"conv{number}"], 2.0) for number in range(6)))
    assert not explaining(changes(before, after))
    for told in ({"versions": {"onnxruntime": "2"}}, {"threads": 2}, {"batch": 4}):
        assert len(explaining(changes(before, after.model_copy(update=told)))) == 5


def test_another_layout_is_told() -> None:
    before = profile(row(["a"], 1.0, layout="nchwc"))
    (found,) = changes(before, profile(row(["a"], 1.0)))
    assert (found.what, found.words) == ("same", "layout nchwc before, plain after")


@pytest.mark.parametrize(("after_ms", "what"), [(1.09, "same"), (1.2, "slower"), (0.8, "faster")])
def test_what_counts_as_a_change(after_ms: float, what: str) -> None:
    found = changes(profile(row(["a"], 1.0)), profile(row(["a"], after_ms)))
    assert found[0].what == what


def test_small_layers_make_no_news() -> None:
    before, after = (profile(row(["large"], 100.0), row(["small"], ms)) for ms in (0.1, 0.9))
    assert {change.name: change.what for change in changes(before, after)} == {
        "large": "same",
        "small": "same",
    }
