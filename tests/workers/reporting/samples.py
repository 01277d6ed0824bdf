"""Reports as jobs make them: of an optimization, of one whose names are hostile, of a profile."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from app.benchmarks.schemas import Benchmark, ColdStart, Energy, Knee, Latency, Point, Rate, Trial
from app.profiles.schemas import Advice, Gain, Layer, Peaks, Phase, Profile
from app.reports.schemas import LayerChange, Report, Step, Surgery
from workers.reporting.distribution import distribution

RESULT = Path(__file__).parents[2] / "app/cli/result.json"
HOSTILE = '"><script>window.hacked=1</script><img src=x onerror="window.hacked=1">`|*x*\u202e</td>\n# no'
VERSIONS = {"burnish": "0.1.0", "python": "3.11.7", "onnxruntime": "1.32.0"}
MACHINE = {"cpu": "AMD EPYC", "memory_bytes": 2**34, "governor": None, "load_average": [0.5, 0.4, 0.3]}
LAUNCHES, BLOCKS = 5, 4


def runs_ns(milliseconds: float, runs: int, seed: int) -> list[list[list[int]]]:
    """Runs of so many launches and blocks, skewed as latencies are."""
    random = np.random.default_rng(seed)
    times = milliseconds * 1e6 * random.lognormal(0, 0.05, (LAUNCHES, BLOCKS, runs))
    found: list[list[list[int]]] = times.astype(np.int64).tolist()
    return found


def optimized(name: str = "digits.onnx", **changed: Any) -> Report:
    """The report of a job that quantized a network; every name of strangers is `name`."""
    result = json.loads(RESULT.read_text())
    del result["artifacts"]
    result["comparison"]["speedup_over_reference"] = None
    outputs = result["comparison"]["fidelity"]["outputs"]
    result["comparison"]["fidelity"]["outputs"] = {name: outputs["logits"]}
    result["comparison"]["why"].append(f"{name} stays in fp32")
    recipe = {
        "schema": 1,
        "passes": [
            {"pass": "simplify", "params": {}, "inputs": {}, "version": 1},
            {"pass": "quantize-static", "params": {"excluded_nodes": [name]}, "inputs": {"calibration": "dat_1"}, "version": 3},
        ],
        "notes": [],
    }  # fmt: skip
    target = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}
    given: dict[str, Any] = {
        "kind": "optimize",
        "job": "job_1",
        "created_at": "2026-11-27T01:02:03+00:00",
        "subject": {"id": "mdl_1", "digest": "ab" * 32, "name": name, "format": "onnx"},
        "target": target,
        "recipe": recipe,
        "datasets": [{"id": "dat_1", "role": "calibration", "digest": "cd" * 32}],
        "request": {"kind": "optimize", "recipe": recipe, "targets": [target], "options": {"seed": 7}},
        "command": "burnish optimize mdl_1 --recipe report.json --target onnxruntime-cpu:threads=1",
        "result": result,
        "steps": [
            Step(name="pass:simplify", key="e" * 64, cached=False, seconds=0.31, told=[f"Removed {name}."]),
            Step(name="build", key="f" * 64, cached=True, seconds=75),
        ],
        "measurements": [
            {"side": side, "name": "latency_p50", "unit": "ms", "value": middle, "low": low, "high": high, "samples": {"count": 9}}
            for side, middle, low, high in (("baseline", 0.2696, 0.268, 0.271), ("optimized", 0.0913, 0.091, 0.0921))
        ],
        "distributions": [
            distribution("baseline", runs_ns(0.27, 40, 1)), distribution("optimized", runs_ns(0.0913, 110, 2)),
        ],
        "surgery": [
            Surgery(
                step="pass:prune-channels", parameters=(1_000_000, 450_000), flops=(10**9, 4 * 10**8), size_bytes=(4_000_000, 1_800_000),
                layers=[
                    LayerChange(name=name, kind="Conv2d", parameters=(9_000, 4_000), flops=(10**8, 4 * 10**7), channels=(64, 40)),
                    LayerChange(name="head", kind="Linear", parameters=(640, 640), flops=(1280, 1280), channels=(10, 10)),
                ],
                left_out=[f"{name}: its channels are outputs"],
            )
        ],
        "machine": MACHINE,
        "versions": VERSIONS,
    }  # fmt: skip
    return Report(**{**given, **changed})


def profiled(name: str = "conv1", **changed: Any) -> Report:
    """The report of a job that profiled a network of three layers."""
    layers = [
        Layer(name=f"{name}_quant", operator="Conv", layers=[name], calls=1, mean_ms=2.0, share=0.5, precision="fp32", place="CPU",
              output=[1, 8], flops=2 * 10**9, moved_bytes=10**7, floor_ms=1.6, bound="compute"),
        Layer(name="bn", operator="BatchNormalization", layers=["bn"], calls=1, mean_ms=1.5, share=0.375, flops=10**6,
              moved_bytes=10**8, floor_ms=1.0, bound="memory"),
        Layer(name="Reorder", operator="Reorder", layers=[], calls=2, mean_ms=0.5, share=0.125, moved_bytes=10**5, floor_ms=0.001,
              bound="overhead"),
    ]  # fmt: skip
    profile = Profile(
        subject={"id": "mdl_1", "digest": "ab" * 32, "name": name, "format": "onnx"},
        target={"runtime": "onnxruntime-cpu", "params": {"threads": 1}},
        batch=1, threads=1, runs=300,
        latency={"p50_ms": 3.6, "low_ms": 3.5, "high_ms": 3.7, "launches": 5, "samples": 400},
        profiled_ms=4.1, layers_ms=4.0, gap="the layers take 4 ms together, 11% more than the latency",
        layers=layers,
        phases=[Phase(name="forward", mean_ms=3.0, share=0.75), Phase(name="backward", mean_ms=1.0, share=0.25)],
        peak_memory_bytes=12_000_000, memory=[{"operator": "Conv", "bytes": 9_000_000}],
        peaks=Peaks(flops_per_s={"fp32": 1.2e12, "int8": 4e12}, bytes_per_s=1e11, overhead_ms=0.004, threads=1,
                    measured_with="PyTorch 2.13", measured_at="2026-11-27T01:00:00+00:00"),
        advice=[
            Advice(number=1, rule="quantize", title="Quantize to INT8", why=f"{name} is held by computing", evidence={},
                   layers=[name], gain=Gain(value=1.8, low=1.4, high=2.3), costs_accuracy=True, request={"kind": "optimize"}),
            Advice(number=2, rule="layout", title="Keep one layout", why="reorders take 12%", evidence={}, layers=[], gain=None,
                   costs_accuracy=False, request=None),
        ],
        notes=["kernels are not told apart"],
        machine=MACHINE,
        versions=VERSIONS,
    )  # fmt: skip
    request = {"kind": "profile", "options": {}, "profile": {"of": "inference"}}
    given = {
        "kind": "profile", "recipe": {"schema": 1, "passes": []}, "request": request, "surgery": [], "profile": profile,
        "measurements": [], "result": {"profile": {}, "warnings": []},
        "distributions": [distribution("engine", runs_ns(3.6, 20, 3))],
    }  # fmt: skip
    return optimized(name, **{**given, **changed})


def benchmarked(name: str = "net.onnx", **changed: Any) -> Report:
    """The report of a job that measured how an engine serves."""
    latency = Latency(p50_ms=2.0, p90_ms=2.4, p99_ms=3.1, p999_ms=None, mean_ms=2.1, queries=1200)
    common: dict[str, Any] = {
        "threads": 2,
        "streams": 1,
        "latency": latency,
        "variation": 0.02,
        "peak_memory_bytes": 50_000_000,
    }
    points = [
        Point(scenario="single-stream", batch=1, status="measured", throughput=Rate(value=480, low=470, high=490),
              energy=Energy(joules_per_sample=0.05, watts=24, source="rapl"), **common),
        *(
            Point(scenario="offline", batch=batch, status="measured", throughput=Rate(value=rate, low=0.97 * rate, high=1.02 * rate), **common)
            for batch, rate in ((1, 500), (4, 900), (16, 1000))
        ),
        Point(scenario="server", batch=4, status="measured", bound_ms=10, throughput=Rate(value=600, low=600, high=700), **common,
              server=[
                  Trial(rate_per_s=rate, queries=5000, late=late, kept=kept, p99_ms=p99, mean_batch=1.4, utilization=rate / 1000)
                  for rate, late, kept, p99 in ((400, 3, True, 6.0), (600, 20, True, 9.0), (700, 100, False, 14.0))
              ]),
        Point(scenario="offline", batch=64, threads=2, streams=1, status="failed", problem={"detail": f"{name} does not fit"}),
    ]  # fmt: skip
    found = Benchmark(
        subject={}, target={"runtime": "onnxruntime-cpu", "params": {"threads": 2}}, points=points,
        knees=[Knee(batch=4, throughput_per_s=900, best_batch=16, best_throughput_per_s=1000, threads=2, streams=1)],
        cold_start=ColdStart(import_ms=120, load_ms=30, first_ms=5, launches=3, dropped=True), notes=["no energy"],
        machine=MACHINE, versions=VERSIONS,
    )  # fmt: skip
    given = {
        "kind": "benchmark", "recipe": {"schema": 1, "passes": []}, "request": {"kind": "benchmark", "options": {}}, "surgery": [],
        "benchmark": found, "measurements": [], "result": {"benchmark": {}, "warnings": []}, "distributions": [],
    }  # fmt: skip
    return optimized(name, **{**given, **changed})
