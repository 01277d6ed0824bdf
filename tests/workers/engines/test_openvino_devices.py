"""OpenVINO's GPU and NPU runtimes, as far as they can be tried without such a device: what finds one, what is said where
there is none, and all of their code but the plugin, with the CPU's in its place."""

from pathlib import Path
from typing import Any

import pytest

from app.artifacts.accelerators import accelerators
from app.artifacts.envelope import conditions_of, hold, verdict
from app.artifacts.machine import of_worker, this_machine
from app.catalog.presets import openvino_preset
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts, PresetContext
from app.errors import InvalidParams, Unavailable
from tests.workers.engines.networks import Network, answers
from workers import offered
from workers.coverage import coverage
from workers.measure import environment
from workers.measure.environment import hardware_key
from workers.openvino_library import device_identity, openvino
from workers.probe import main, try_runtime
from workers.runtimes import registry
from workers.runtimes.base import Concurrent, Engine
from workers.runtimes.openvino_facts import model_facts
from workers.runtimes.openvino_gpu import OpenVinoGpu
from workers.runtimes.openvino_npu import OpenVinoNpu

DEVICES = {"openvino-gpu": "GPU", "openvino-npu": "NPU"}
ABSENT = [
    pytest.param(
        name, marks=pytest.mark.skipif(device in openvino.Core().available_devices, reason="it is here")
    )
    for name, device in DEVICES.items()
]


class GpuCodeOnCpu(OpenVinoGpu):
    """The GPU's runtime with the CPU plugin in the place of the GPU's: they take the same properties."""

    device = "CPU"


class NpuCodeOnCpu(OpenVinoNpu):
    """The same of the NPU's."""

    device = "CPU"


@pytest.fixture
def system(tmp_path: Path):
    """`system(vendors, drivers)`: a /sys with render nodes of these vendors and accelerators of these drivers."""

    def make(vendors: list[str], drivers: list[str]) -> Path:
        for number, vendor in enumerate(vendors):
            device = tmp_path / f"class/drm/renderD{128 + number}/device"
            device.mkdir(parents=True)
            (device / "vendor").write_text(f"{vendor}\n")
        for number, driver in enumerate(drivers):
            device = tmp_path / f"class/accel/accel{number}/device"
            device.mkdir(parents=True)
            (tmp_path / "drivers" / driver).mkdir(parents=True)
            (device / "driver").symlink_to(tmp_path / "drivers" / driver)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("vendors", "drivers", "found"),
    [
        ([], [], []),
        (["0x8086"], [], ["intel-gpu"]),
        (["0x10de", "0x1002"], ["habanalabs"], []),
        (["0x10de", "0x8086"], ["habanalabs", "intel_vpu"], ["intel-gpu", "intel-npu"]),
    ],
    ids=["none", "gpu", "others", "both"],
)
def test_devices_are_found_by_files_alone(vendors, drivers, found, system):
    assert accelerators(system(vendors, drivers)) == found


def test_what_is_not_here_is_neither_tried_nor_asked(monkeypatch, capsys, cnn: Network, tmp_path: Path):
    monkeypatch.setattr(offered, "accelerators", list)
    assert offered.without_absent(["openvino-cpu", *DEVICES]) == ["openvino-cpu"]
    assert main(list(DEVICES)) == 0
    assert '"runtimes": {}, "failed": {}' in capsys.readouterr().out
    assert coverage(cnn.model, DEVICES, tmp_path) == {}
    monkeypatch.setattr(offered, "accelerators", lambda: ["intel-npu"])
    assert offered.without_absent(["openvino-cpu", *DEVICES]) == ["openvino-cpu", "openvino-npu"]


@pytest.mark.parametrize("name", ABSENT)
def test_the_self_test_says_that_there_is_no_such_device(name: str):
    with pytest.raises(RuntimeError, match=f"OpenVINO has no device {DEVICES[name]} here, only CPU"):
        try_runtime(name)


@pytest.mark.parametrize("name", ABSENT)
def test_without_the_device_nothing_is_built_loaded_or_covered(name: str, cnn: Network, tmp_path: Path):
    runtime, params = registry.alone(name), RUNTIMES[name].params()
    for attempt in (
        lambda: runtime.build(cnn.model, params, tmp_path),
        lambda: runtime.load(Engine(tmp_path, "model.xml"), params),
        lambda: runtime.coverage(cnn.model),
    ):
        with pytest.raises(Unavailable) as refusal:
            attempt()
        assert refusal.value.hint
        assert not refusal.value.problem()["retryable"]
        assert str(Path(openvino.__file__).parent) not in refusal.value.detail
    assert list(tmp_path.iterdir()) == []


def test_parameters_become_properties():
    gpu, npu = RUNTIMES["openvino-gpu"].params, RUNTIMES["openvino-npu"].params
    assert OpenVinoGpu().properties(gpu()) == {
        "PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "PERFORMANCE", "CACHE_DIR": "",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    asked = gpu(hint="throughput", streams=3, inference_precision="auto", execution_mode="accuracy")
    assert OpenVinoGpu().properties(asked) == {
        "PERFORMANCE_HINT": "THROUGHPUT", "EXECUTION_MODE_HINT": "ACCURACY", "CACHE_DIR": "", "NUM_STREAMS": 3,
    }  # fmt: skip
    assert OpenVinoNpu().properties(npu()) == {
        "PERFORMANCE_HINT": "LATENCY", "CACHE_DIR": "", "INFERENCE_PRECISION_HINT": "f16",
    }  # fmt: skip


@pytest.mark.parametrize(
    "params", [{}, {"hint": "throughput", "streams": 2, "cache_compiled": True}], ids=["plain", "all"]
)
def test_the_gpus_code_gives_the_models_answers(params: dict[str, Any], cnn: Network, tmp_path: Path, signal):
    runtime, chosen = GpuCodeOnCpu(), RUNTIMES["openvino-gpu"].params(**params)
    engine = runtime.build(cnn.model, chosen, tmp_path)
    loaded = runtime.load(engine, chosen)
    expected = answers(cnn.model, {"images": cnn.images})["logits"]
    assert signal(expected, loaded.run({"images": cnn.images})["logits"]) > 80
    assert isinstance(loaded, Concurrent)
    assert loaded.requests == params.get("streams", 1)
    assert engine.facts["compute"] == {"fp32": 4}
    assert (tmp_path / "compiled.blob").exists() == ("cache_compiled" in params)
    assert runtime.coverage(cnn.model).share == 1.0
    validity = runtime.validity(engine, chosen)
    assert (validity["device"], validity["device_name"]) == ("intel-gpu", runtime.device_name())
    assert validity["inputs"] == loaded.inputs


def test_the_npus_code_computes_in_half_precision_or_refuses(cnn: Network, tmp_path: Path):
    runtime, spec = NpuCodeOnCpu(), RUNTIMES["openvino-npu"]
    engine = runtime.build(cnn.model, spec.params(inference_precision="auto"), tmp_path)
    assert engine.facts["nodes"] == sum(engine.facts["precision"].values())
    assert spec.baseline_params(spec.params(inference_precision="auto")).inference_precision == "f16"
    assert spec.baseline_precision == "fp16"
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert runtime.build(cnn.model, spec.params(), tmp_path).facts["compute"] == {"fp16": 4}
    else:
        with pytest.raises(InvalidParams, match="no instructions for f16"):
            runtime.build(cnn.model, spec.params(), tmp_path)


def test_an_engine_is_valid_only_where_there_is_such_a_device(cnn: Network, tmp_path: Path):
    runtime, chosen = GpuCodeOnCpu(), RUNTIMES["openvino-gpu"].params()
    needed = conditions_of(runtime.validity(runtime.build(cnn.model, chosen, tmp_path), chosen))
    facts = this_machine(needed)
    assert facts["accelerators"] == accelerators()
    assert verdict(hold(needed, {**facts, "accelerators": []})) == "no"
    assert verdict(hold(needed, {**facts, "accelerators": ["intel-npu"]})) == "no"
    assert verdict(hold(needed, {**facts, "accelerators": ["intel-gpu", "intel-npu"]})) == "yes"
    worker = of_worker(
        {"accelerators": ["intel-gpu"]}, {"openvino-gpu": {"versions": dict(runtime.versions())}}
    )
    assert verdict(hold(needed, worker)) == "yes"


def test_facts_of_the_model_tell_8_bit_nodes_from_others(cnn: Network, apply):
    quantized, _ = apply("quantize-openvino", cnn.model, cnn.train, excluded_operators=["Gemm", "MatMul"])
    for model, compute in ((cnn.model, {"fp16": 4}), (quantized, {"int8": 3, "fp16": 1})):
        facts = model_facts(openvino.Core().read_model(str(model.path)), "NPU", "f16")
        assert facts["compute"] == compute
        assert sum(facts["precision"].values()) == sum(facts["operators"].values()) == facts["nodes"]
        assert any("NPU" in text for text in facts["explained"])
    assert facts["int8_share"] == 0.75


@pytest.mark.parametrize("name", DEVICES)
def test_presets_have_the_cpus_passes_and_say_that_nobody_measured_them(name: str):
    facts = ModelFacts("onnx", "fp32", {"Conv": 3}, 1000, (), ())
    context = PresetContext(facts, "dat_1", allow_synthetic=False)
    choice = RUNTIMES[name].preset(context)
    assert choice.passes == openvino_preset(context).passes
    assert "never measured" in choice.reasons[0]


def test_engines_of_one_device_are_not_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    core = openvino.Core()
    assert device_identity("CPU") == (
        f"{core.get_property('CPU', 'FULL_DEVICE_NAME').strip()} / {core.get_property('CPU', 'DEVICE_ARCHITECTURE')}"
    )
    assert device_identity("NO_SUCH") is None
    monkeypatch.setattr(environment, "OPENVINO_DEVICES", {"intel-gpu": "CPU"})
    keys = {hardware_key("intel-gpu")}
    monkeypatch.setattr(environment, "OPENVINO_DEVICES", {"intel-gpu": "NO_SUCH"})
    keys.add(hardware_key("intel-gpu"))
    assert len(keys) == 2
    assert hardware_key() in keys
