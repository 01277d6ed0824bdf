"""Samples: from files in order and in pieces, from seeds one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import SignatureMismatch
from workers.assignment import DatasetFiles
from workers.context import Samples
from workers.samples import FREE_DIMENSION, TOKEN_IDS, is_batched, open_samples, synthetic_samples


def signature(**inputs: tuple[str, list[Any]]) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in inputs.items()]
    }


def opened(folder: Path, **arrays: np.ndarray) -> Samples:
    np.savez_compressed(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return open_samples(DatasetFiles(id="d", digest="1" * 64, root=folder, format="npz", name="d"))


def joined(samples: Samples, size: int, limit: int | None = None) -> dict[str, np.ndarray]:
    parts = [feeds for feeds, _ in samples.batches(size, limit)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_files_come_back_whole_in_order_as_often_as_asked(size: int, tmp_path: Path) -> None:
    x, z, labels = np.random.default_rng(0).random((10, 4)), np.arange(20).reshape(10, 2), np.arange(10) % 3
    samples = opened(tmp_path, x=x, labels=labels, z=z)
    assert (samples.count, samples.digest, samples.synthetic) == (10, "1" * 64, False)
    assert samples.inputs == {"x": ("float64", (4,)), "z": ("int64", (2,))}
    for _ in range(2):
        batches = list(samples.batches(size))
        assert [len(feeds["x"]) for feeds, _ in batches] == [
            min(size, 10 - start) for start in range(0, 10, size)
        ]
        np.testing.assert_array_equal(joined(samples, size)["x"], x)
        np.testing.assert_array_equal(joined(samples, size)["z"], z)
        np.testing.assert_array_equal(
            np.concatenate([given for _, given in batches if given is not None]), labels
        )


@pytest.mark.parametrize(("limit", "given"), [(1, 1), (4, 4), (7, 7), (99, 10)])
def test_a_limit_counts_samples(limit: int, given: int, tmp_path: Path) -> None:
    samples = opened(tmp_path, x=np.arange(10.0).reshape(10, 1))
    assert joined(samples, 3, limit)["x"].ravel().tolist() == list(range(given))
    generated = synthetic_samples(signature(x=("float32", ["n", 2])), 0, 10)
    assert len(joined(generated, 3, limit)["x"]) == given


def test_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    samples = opened(tmp_path, x=np.arange(6.0).reshape(6, 1))
    pairs = list(zip(samples.batches(1), samples.batches(1), strict=True))
    assert all(first["x"] == second["x"] for (first, _), (second, _) in pairs)


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    given = signature(x=("float32", ["n", 3, None]), ids=("int64", ["n", 5]))
    whole = joined(synthetic_samples(given, 7, 9), 9)
    for size in (1, 4):
        again = joined(synthetic_samples(given, 7, 9), size)
        assert all(np.array_equal(whole[name], again[name]) for name in whole)
    longer = joined(synthetic_samples(given, 7, 12), 12)
    assert all(np.array_equal(whole[name], longer[name][:9]) for name in whole)
    other = joined(synthetic_samples(given, 8, 9), 9)
    assert not np.array_equal(whole["x"], other["x"])
    assert len({row.tobytes() for row in whole["x"]}) == 9
    digests = {synthetic_samples(given, seed, count).digest for seed in (7, 8) for count in (9, 12)}
    assert len(digests) == 4
    assert synthetic_samples(given, 7, 9).digest == synthetic_samples(given, 7, 9).digest


def test_values_never_change_between_releases() -> None:
    """Step keys hold the digest of the generator's input, so its output must stay."""
    first = joined(synthetic_samples(signature(x=("float64", ["n", 2])), 0, 1), 1)["x"]
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 0, 0]))).standard_normal(2)
    np.testing.assert_array_equal(first[0], expected)


def test_values_fit_what_inputs_of_that_name_take() -> None:
    shape = ["batch", 50]
    given = signature(
        input_ids=("int64", shape),
        attention_mask=("int64", shape),
        token_type_ids=("int32", shape),
        other=("int32", shape),
        flag=("bool", shape),
        real=("float16", shape),
        byte=("uint8", shape),
    )
    values = joined(synthetic_samples(given, 0, 40), 40)
    for entry in given["inputs"]:
        assert values[entry["name"]].dtype == np.dtype(entry["dtype"])
        assert values[entry["name"]].shape == (40, 50)
    assert values["input_ids"].min() >= 0
    assert set(values["input_ids"].ravel()) == set(range(TOKEN_IDS))
    assert set(values["attention_mask"].ravel()) == {1}
    assert set(values["token_type_ids"].ravel()) == {0}
    assert set(values["other"].ravel()) == set(values["byte"].ravel()) == {0, 1}
    assert abs(float(values["real"].astype(np.float64).mean())) < 0.1
    assert abs(float(values["real"].astype(np.float64).std()) - 1) < 0.1


def test_free_dimensions_become_what_is_told_or_a_constant() -> None:
    given = signature(x=("float32", ["n", "length", None, 3]))
    assert synthetic_samples(given, 0, 1).inputs["x"][1] == (FREE_DIMENSION, FREE_DIMENSION, 3)
    assert synthetic_samples(given, 0, 1, {"length": 5}).inputs["x"][1] == (5, FREE_DIMENSION, 3)


@pytest.mark.parametrize(
    ("inputs", "batched"),
    [
        ({"x": ["n", 3], "z": ["n", 4]}, True),
        ({"x": [None, 3], "z": ["m"]}, True),
        ({"x": [1, 3], "z": [1]}, True),
        ({"x": [4, 3], "z": [4]}, True),
        ({"x": ["n", 3], "z": [1, 3]}, True),
        ({"x": ["n", 3], "sr": []}, False),
        ({"x": [4, 3], "z": [2]}, False),
        ({"x": ["n", "length"], "state": [2, "n", 128]}, False),
        ({"x": ["n", 4], "state": [2, None, 128]}, False),
        ({"x": ["length", "n"], "z": ["n", 4]}, False),
    ],
)
def test_the_first_axis_counts_samples_only_where_nothing_speaks_against_it(
    inputs: dict[str, list[Any]], batched: bool
) -> None:
    given = signature(**{name: ("float32", shape) for name, shape in inputs.items()})["inputs"]
    assert is_batched(given) is batched


def test_where_it_does_not_a_sample_is_a_whole_set_of_inputs() -> None:
    given = signature(x=("float32", ["batch", 64]), state=("float32", [2, "batch", 128]), sr=("int64", []))
    samples = synthetic_samples(given, 0, 3)
    assert {name: shape for name, (_, shape) in samples.inputs.items()} == {
        "x": (1, 64), "state": (2, 1, 128), "sr": (),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["string", "complex64", "bfloat16", "no-such-type"])
def test_what_cannot_be_generated_is_refused_with_the_input(dtype: str) -> None:
    with pytest.raises(SignatureMismatch, match=dtype) as caught:
        synthetic_samples(signature(text=(dtype, ["n"])), 0, 1)
    assert caught.value.param == "text"
    assert "dataset" in str(caught.value.hint)
