"""A whole session on real engines: the shape that `api.md` promises, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.pass_params.precision import ToFp16Params
from app.errors import InvalidParams, SignatureMismatch
from app.measurements.compare import Interval, speed_verdict
from tests.workers.engines.networks import ArraySamples
from tests.workers.measure.engines import built, products
from workers.context import PassContext
from workers.finish import ResultSaid
from workers.measure.latency import EngineUnderTest
from workers.measure.session import measure
from workers.passes import registry

WIDTH = 64
SAMPLES = 120


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineUnderTest, EngineUnderTest]:
    """A network, and the same with noise on its weights."""
    folder = tmp_path_factory.mktemp("engines")
    return (
        built(products(folder / "a", WIDTH, 3), folder / "ea"),
        built(products(folder / "b", WIDTH, 3, noise=0.03), folder / "eb"),
    )


@pytest.fixture(scope="module")
def samples(engines: tuple[EngineUnderTest, EngineUnderTest]) -> ArraySamples:
    """Inputs with labels at random: both networks are right by chance alone."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((SAMPLES, WIDTH)).astype(np.float32)
    return ArraySamples({"x": inputs}, random.integers(0, WIDTH, SAMPLES))


def session(
    engines: tuple[EngineUnderTest, EngineUnderTest], samples: ArraySamples, scratch: Path, **given: Any
) -> dict[str, Any]:
    asked = {"evaluation": None, "budget": None, "seed": 0, "report": lambda *told: None, "seconds": 0.5}
    return measure(*engines, samples=samples, scratch=scratch, **{**asked, **given})


Told = list[tuple[int, int, str]]


@pytest.fixture(scope="module")
def measured(engines, samples, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Told]:
    """One session with everything, and what it reported."""
    told: Told = []
    found = session(
        engines,
        samples,
        tmp_path_factory.mktemp("session") / "new",
        evaluation={"metric": "top1", "output": None},
        budget={"max_drop": 0.01},
        report=lambda *given: told.append(given),
        read_by_passes=[samples],
    )
    return found, told


def test_a_session_answers_what_the_contract_promises(measured: tuple[dict[str, Any], Told]):
    found, told = measured
    for side in ("baseline", "optimized"):
        assert set(found[side]) == {
            "latency", "throughput_per_s", "concurrency", "peak_memory_bytes", "peak_gpu_memory_bytes", "load_ms",
                "accuracy",
        }  # fmt: skip
        latency = found[side]["latency"]
        assert set(latency) == {
            "p50_ms", "p90_ms", "p99_ms", "mean_ms", "samples", "launches", "batch", "threads",
        }  # fmt: skip
        assert (latency["launches"], latency["batch"], latency["threads"]) == (5, 1, 1)
        assert found[side]["peak_memory_bytes"] > 0
        assert found[side]["accuracy"]["samples"] == SAMPLES
        assert found[side]["accuracy"]["metric"] == "top1"
    comparison = found["comparison"]
    speedup = {key: comparison["speedup"][key] for key in ("value", "low", "high")}
    assert comparison["speedup"]["verdict"] == speed_verdict(
        Interval(**speedup), Interval(**comparison["control"])
    )
    fidelity = comparison["fidelity"]["outputs"]["y"]
    assert 20 < fidelity["sqnr_db"] < 50
    assert 0.99 < fidelity["cosine"] < 1
    assert 0.5 < fidelity["top1_agreement"] < 1
    assert comparison["accuracy_drop"]["low"] < 0 < comparison["accuracy_drop"]["high"]
    assert comparison["within_budget"] == "undecided"
    assert comparison["samples_needed"] is None or comparison["samples_needed"] > SAMPLES
    assert found["machine"]["pinned_cpus"]
    assert found["machine"]["runtimes"]["onnxruntime-cpu"]["onnxruntime"]
    assert any("120 of 120 evaluation samples" in text for text in found["warnings"])
    assert any("120 samples do not decide" in text for text in found["warnings"])
    for side in ("baseline", "optimized"):
        runs = np.array(
            [run for launch in found["runs_ns"][side] for block in launch for run in block]
        )  # every timed one
        assert len(runs) == found[side]["latency"]["samples"]
        assert np.median(runs) / 1e6 == found[side]["latency"]["p50_ms"]
    json.dumps(found, allow_nan=False)
    assert told[0] == (0, SAMPLES, "comparing outputs")
    assert [done for done, total, _ in told if total == 10] == list(
        range(11)
    )  # samples come in other numbers
    assert told[-1] == (10, 10, "measured")


def test_every_number_is_a_measurement(measured: tuple[dict[str, Any], Told]):
    found, _ = measured
    rows = found["measurements"]
    ResultSaid.model_validate({"result": {}, "artifacts": [], "measurements": rows})
    by_name = {(row["side"], row["name"]): row for row in rows}
    assert len(by_name) == len(rows)
    for side in ("baseline", "optimized"):
        for name in ("latency_p50", "latency_mean", "throughput", "load", "peak_memory", "accuracy"):
            row = by_name[side, name]
            assert row["unit"]
            assert row["samples"]["count"] > 0
            assert row["machine"] == found["machine"]
            if row["low"] is not None:
                assert row["low"] <= row["value"] <= row["high"]
        assert by_name[side, "latency_p50"]["value"] == found[side]["latency"]["p50_ms"]
        assert len(by_name[side, "latency_p50"]["samples"]["block_medians"]) == 5
        assert len(by_name[side, "load"]["samples"]["values"]) == 5
    for name in ("speedup", "control", "accuracy_drop"):
        assert ("comparison", name) in by_name


def test_without_evaluation_outputs_are_compared_all_the_same(engines, samples, tmp_path: Path):
    found = session((engines[0], engines[0]), samples, tmp_path)
    assert found["baseline"]["accuracy"] is found["optimized"]["accuracy"] is None
    comparison = found["comparison"]
    assert comparison["accuracy_drop"] is comparison["within_budget"] is None
    assert comparison["fidelity"]["outputs"]["y"]["max_abs"] == 0


def test_a_budget_needs_a_metric_that_can_drop(engines, samples, tmp_path: Path):
    with pytest.raises(InvalidParams) as refusal:
        session(engines, samples, tmp_path, evaluation={"metric": "snr"}, budget={"max_drop": 1})
    assert refusal.value.param == "budget.max_drop"


def test_data_that_does_not_fit_is_refused_before_anything_is_timed(engines, tmp_path: Path):
    with pytest.raises(SignatureMismatch) as refusal:
        session(engines, ArraySamples({"z": np.zeros((3, WIDTH), np.float32)}), tmp_path)
    assert refusal.value.param == "x"


def test_an_engine_whose_inputs_became_narrower_is_timed_too(engines, samples, tmp_path: Path):
    context = PassContext(out=tmp_path / "half")
    context.out.mkdir()
    model = products(tmp_path / "model", WIDTH, 3)
    half = registry.get("to-fp16")(model, ToFp16Params(keep_io_types=False), context)
    both = (engines[0], built(half, tmp_path / "engine"))
    found = session(both, samples, tmp_path / "scratch", seconds=0.2, launches=2)
    assert found["optimized"]["latency"]["launches"] == 2
