"""Where real engines say that they are valid: here, and not where what they were made for is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.envelope import conditions_of, hold, verdict
from app.artifacts.machine import this_machine
from app.catalog.runtimes import RUNTIMES
from tests.workers.engines.conftest import Network
from workers import runtimes
from workers.model_handle import ModelHandle
from workers.runtimes import conditions

X86 = ["avx", "avx2", "fma", "avx512f", "avx512_vnni"]


def stored(name: str, model: ModelHandle, out: Path, **params: Any) -> dict[str, Any]:
    """The `validity` of an engine that is built now, as a manifest has it."""
    out.mkdir()
    runtime = runtimes.registry.get(name)
    chosen = RUNTIMES[name].params(**params)
    engine = runtime.build(model, chosen, out)
    found: dict[str, Any] = json.loads(json.dumps(runtime.validity(engine, chosen)))
    return found


def held(validity: dict[str, Any], **changes: Any) -> dict[str, str]:
    """The verdict by what it is on, the worst of each, on this machine with some facts changed."""
    needed = conditions_of(validity)
    facts = {**this_machine(needed), **changes}
    found = hold(needed, facts)
    return {
        one.condition.what: verdict([each for each in found if each.condition.what == one.condition.what])
        for one in found
    }


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "openvino-cpu", "torch-eager"])
def test_an_engine_is_valid_where_it_was_built(name: str, cnn: Network, tmp_path: Path):
    found = held(stored(name, cnn.taken(RUNTIMES[name].formats), tmp_path / "engine"))
    assert set(found.values()) == {"yes"}
    assert f"package:{RUNTIMES[name].packages[0]}" in found


def test_layouts_of_onnx_runtime_hold_for_one_vector_width(cnn: Network, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(conditions, "cpu_features", lambda: X86)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    wide = stored("onnxruntime-cpu", cnn.model, tmp_path / "wide")
    assert held(wide, cpu_features=X86)["cpu_features"] == "yes"
    assert held(wide, cpu_features=["avx", "avx2", "fma"])["cpu_features"] == "no"
    assert held(wide, architecture="aarch64")["architecture"] == "no"

    monkeypatch.setattr(conditions, "cpu_features", lambda: ["avx2"])
    narrow = stored("onnxruntime-cpu", cnn.model, tmp_path / "narrow")
    assert held(narrow, cpu_features=["avx", "avx2"])["cpu_features"] == "yes"
    assert held(narrow, cpu_features=X86)["cpu_features"] == "no"

    plain = stored("onnxruntime-cpu", cnn.model, tmp_path / "plain", graph_optimization="extended")
    assert "cpu_features" not in held(plain)
    assert held(plain, architecture="aarch64")["architecture"] == "unproved"


def test_an_older_onnx_runtime_is_refused_and_a_later_one_must_show_it(cnn: Network, tmp_path: Path):
    engine = stored("onnxruntime-cpu", cnn.model, tmp_path / "engine")
    assert held(engine, **{"package:onnxruntime": "1.2.0"})["package:onnxruntime"] == "no"
    assert held(engine, **{"package:onnxruntime": "99.0.0"})["package:onnxruntime"] == "unproved"


def test_a_later_openvino_reads_an_ir_and_an_older_one_does_not(cnn: Network, tmp_path: Path):
    engine = stored("openvino-cpu", cnn.model, tmp_path / "engine", inference_precision="f32")
    assert held(engine, **{"package:openvino": "2099.1.0"})["package:openvino"] == "yes"
    assert held(engine, **{"package:openvino": "2024.6.0"})["package:openvino"] == "no"


def test_a_compiled_blob_makes_another_processor_slower(cnn: Network, tmp_path: Path):
    engine = stored(
        "openvino-cpu", cnn.model, tmp_path / "engine", cache_compiled=True, inference_precision="f32"
    )
    assert held(engine)["cpu"] == "yes"
    assert held(engine, cpu="Another CPU")["cpu"] == "slow"
    assert held(engine, **{"package:openvino": "2099.1.0"})["package:openvino"] == "slow"


def test_eight_bits_are_slower_without_their_instructions(
    cnn: Network, simplified, apply, tmp_path, monkeypatch
):
    monkeypatch.setattr(conditions, "cpu_features", lambda: X86)
    quantized, _ = apply("quantize-static", simplified, cnn.train)
    for name in ("onnxruntime-cpu", "openvino-cpu"):
        engine = stored(name, quantized, tmp_path / name)
        told = [one for one in engine["conditions"] if one["otherwise"] == "slow"]
        assert [one["what"] for one in told] == ["cpu_features"]
        assert held(engine, cpu_features=["avx2", "avx512f"])["cpu_features"] == "slow"


def test_compiled_code_needs_what_it_was_compiled_for(monkeypatch):
    monkeypatch.setattr(conditions, "cpu_features", lambda: ["avx2", "fma"])
    needed = {"conditions": conditions.listed(conditions.compiled_code("2.13.0+cpu", 2, None))}
    facts = {"package:torch": "2.13.1", "cpu_features": ["avx2", "fma"], "processors": 2, "glibc": "99.1"}
    assert set(held(needed, **facts).values()) == {"yes"}
    assert held(needed, **{**facts, "package:torch": "2.14.0"})["package:torch"] == "no"
    assert held(needed, **{**facts, "cpu_features": ["avx2"]})["cpu_features"] == "no"
    assert held(needed, **{**facts, "processors": 1})["processors"] == "slow"
    assert held(needed, **{**facts, "system": "Darwin"})["system"] == "no"
    on_gpu = {"conditions": conditions.listed(conditions.compiled_code("2.13.0", None, "9.0"))}
    assert held(on_gpu, compute_capability=["9.0"])["compute_capability"] == "yes"
    assert held(on_gpu, compute_capability=["8.9"])["compute_capability"] == "no"
    assert held(on_gpu, compute_capability=[])["compute_capability"] == "no"
