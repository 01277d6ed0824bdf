"""Profiles as tests build them: layers of known operations, on a device of known peaks."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.catalog.spec import ModelFacts
from app.profiles.schemas import Advice, Layer, Peaks, Phase, Profile
from workers.profiling.advising import Case, advise
from workers.surgery.savings import Weight, savings

FP32 = 100e9  # FLOP/s
PEAKS = Peaks(
    flops_per_s={"fp32": FP32, "bf16": 2 * FP32, "int8": 4 * FP32},
    bytes_per_s=10e9,
    cached_bytes_per_s=100e9,
    cached_bytes=32_000_000,
    overhead_ms=0.001,
    threads=1,
    measured_with="hand",
    measured_at="2026-01-01T00:00:00+00:00",
)
GPU_PEAKS = PEAKS.model_copy(update={"flops_per_s": {"fp32": FP32, "tf32": 4 * FP32, "fp16": 8 * FP32}})
IMAGES = ({"name": "x", "dtype": "float32", "shape": ["n", 3, 64, 64]},)


def layer(name: str, mean_ms: float, operator: str = "Conv", flops: int = 0, **more: Any) -> Layer:
    """A row of a profile; its floor is that of its operations in fp32, unless `more` says something else."""
    floor = 1000 * flops / FP32
    told = {
        "layers": [name],
        "calls": 1,
        "share": 0.0,
        "precision": "fp32",
        "flops": flops,
        "moved_bytes": 0,
        "floor_ms": floor,
        "bound": "compute" if floor > 0.5 * mean_ms else "overhead",
        **more,
    }
    return Layer(name=name, operator=operator, mean_ms=mean_ms, **told)


def convolution(
    name: str, mean_ms: float, outputs: int, inputs: int, kernel: int, size: int, groups: int = 1, **more: Any
) -> tuple[Layer, dict[str, Any]]:
    """A convolution on `size` × `size` places, and its entry in the structure report."""
    shape = (outputs, inputs // groups, kernel, kernel)
    weights = outputs * shape[1] * kernel**2
    flops = 2 * size**2 * weights
    row = layer(name, mean_ms, flops=flops, output=[1, outputs, size, size], **more)
    entry = {
        "name": name,
        "kind": "Conv",
        "parameters": weights,
        "flops": flops,
        "output": [outputs, size, size],
        "savings": savings(Weight(shape, True, groups), flops),
    }
    return row, entry


def product(
    name: str, mean_ms: float, rows: int, inputs: int, outputs: int, **more: Any
) -> tuple[Layer, dict[str, Any]]:
    """A linear layer on `rows` vectors, and its entry in the structure report."""
    flops = 2 * rows * inputs * outputs
    entry = {
        "name": name,
        "kind": "MatMul",
        "parameters": inputs * outputs,
        "flops": flops // rows,
        "output": [1, outputs],
        "savings": savings(Weight((outputs, inputs), False), flops // rows),
    }
    return layer(name, mean_ms, "MatMul", flops, output=[1, rows, outputs], **more), entry


def case(
    rows: Sequence[Layer | tuple[Layer, dict[str, Any]]],
    runtime: str = "onnxruntime-cpu",
    params: Mapping[str, Any] | None = None,
    *,
    model: ModelFacts | str | None = "guess",
    peaks: Peaks | None = PEAKS,
    phases: Sequence[Phase] = (),
    threads_used: int = 1,
    batch: int = 1,
    **more: Any,
) -> Case:
    """A case whose layers are these; the model is an fp32 ONNX model with their operators, unless given."""
    structure = {row[1]["name"]: row[1] for row in rows if isinstance(row, tuple)}
    layers = [row[0] if isinstance(row, tuple) else row for row in rows]
    whole = sum(one.mean_ms for one in layers) or 1.0
    layers = [one.model_copy(update={"share": one.mean_ms / whole}) for one in layers]
    if model == "guess":
        model = facts([one.operator for one in layers])
    profile = Profile(
        subject={"id": "mdl_tested", "digest": "0" * 64, "name": "tested", "format": "onnx"},
        target={"runtime": runtime, "params": dict(params or {})},
        of="training" if phases else "inference",
        batch=batch,
        threads=threads_used,
        runs=10,
        latency={"p50_ms": whole, "low_ms": whole, "high_ms": whole, "launches": 5, "samples": 100},
        profiled_ms=whole,
        layers_ms=whole,
        layers=layers,
        phases=list(phases),
        peaks=peaks,
        machine={},
        versions={},
    )
    assert not isinstance(model, str)
    return Case(profile, model=model, structure=structure, **more)


def facts(operators: Sequence[str], format_: str = "onnx", **more: Any) -> ModelFacts:
    """What is known of an fp32 model with these operators."""
    counts = {name: list(operators).count(name) for name in operators}
    return ModelFacts(format_, "fp32", counts, 1_000_000, IMAGES, (), **more)


def given(found: Case, rule: str) -> list[Advice]:
    """The advice that a rule gave."""
    return [piece for piece in advise(found) if piece.rule == rule]


def one(found: Case, rule: str) -> Advice:
    """The only piece of advice that a rule gave."""
    (piece,) = given(found, rule)
    return piece
