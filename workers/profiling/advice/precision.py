"""Narrower numbers: 8 bits, half precision, TF32."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.catalog.passes import PASSES
from app.profiles.schemas import Layer
from workers.profiling.advice import rule
from workers.profiling.advising import Case, Finding
from workers.profiling.gains import SAME, Ratio, gain_of, noticeable
from workers.profiling.layer_kinds import LayerKind

WORTHWHILE = 1.3  # times the peak of fp32, below which another precision is not
FLOATING = frozenset(("fp32", "tf32", None))
NAMED = 5

# new time over what the peaks of both precisions allow, measured: see `docs/decisions/profiling.md`
KERNELS = Ratio(0.9, 1.45)  # convolutions of k×k
DENSE = Ratio(1.05, 1.85)  # pointwise ones, products
HALF_DENSE = Ratio(0.95, 1.5)
# new time over the time before
FEW_CHANNELS = Ratio(0.6, 1.5)  # the first layer, depthwise ones: 8-bit kernels want many channels
HALF_FEW_CHANNELS = Ratio(0.5, 1.1)
BETWEEN = Ratio(0.4, 1.1)  # values between layers have fewer bytes, or are fused away
DYNAMIC_BETWEEN = Ratio(0.85, 1.3)  # ranges are taken on every call
UNFUSED = 2.0  # times the worst of them, where activations are not fused into 8-bit kernels
UNFUSED_ACTIVATIONS = frozenset(
    (
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Elu",
        "Softplus",
        "Mish",
        "Swish",
        "PRelu",
        "Erf",
        "Gelu",
    )
)
ENTERING = Ratio(0.005, 0.03)  # of the whole time: conversions where values enter and leave


@rule("quantize")
def quantize(case: Case) -> Iterator[Finding]:
    """Eight bits, in the form that the target's preset chooses: layers that multiply by weights over many channels gain."""
    passes = [
        step for step in case.preset_passes() if step["pass"] not in {one["pass"] for one in case.recipe}
    ]
    form = _produced(passes)
    if case.precision != "fp32" or form not in ("int8", "int8-dynamic") or case.peak("int8") < WORTHWHILE:
        return
    dynamic = form == "int8-dynamic"
    unfused = _unfused(case) if form == "int8" else []
    ratios = {
        place: _eight_bits(case, kind, dynamic=dynamic, unfused=bool(unfused))
        for place, (layer, kind) in enumerate(zip(case.layers, case.kinds, strict=True))
        if layer.precision in FLOATING
    }
    gaining = [place for place, ratio in ratios.items() if ratio.high < 1.0]
    gain = gain_of(case.profile, ratios, ENTERING)
    if not gaining or not noticeable(gain):
        return
    rest = [place for place in range(len(case.layers)) if place not in gaining]
    apart = (
        f" {' and '.join(unfused)} stay apart from 8-bit kernels, which costs part of it." if unfused else ""
    )
    yield Finding(
        title=f"Quantize to 8 bits ({' and '.join(step['pass'] for step in passes)})",
        why=f"{len(gaining)} layers, {case.share(gaining):.0%} of the time, multiply by weights over many channels, which the device does "
        f"{case.peak('int8'):.2g} times as fast in 8 bits. {_nothing_gained(case, rest)}{apart}",
        evidence={
            "peak_over_fp32": round(case.peak("int8"), 3),
            "share_gaining": round(case.share(gaining), 4),
            "gaining": len(gaining),
            "not_gaining": _why_not(case, rest),
            "unfused_activations": unfused,
        },
        layers=gaining,
        gain=gain,
        costs_accuracy=True,
        request=case.request(passes),
    )


@rule("half-precision")
def half_precision(case: Case) -> Iterator[Finding]:
    """bf16 or fp16 where the device has units for it: a parameter of OpenVINO, a cast for PyTorch, `to-fp16` on NVIDIA GPUs."""
    if case.precision != "fp32" and case.model is not None:
        return
    found = _half(case)
    if found is None:
        return
    kind, how, passes, params = found
    if case.peak(kind) < WORTHWHILE:
        return
    ideal = 1 / case.peak(kind)
    ratios = {
        place: _half_ratio(one, ideal)
        for place, (layer, one) in enumerate(zip(case.layers, case.kinds, strict=True))
        if layer.precision in FLOATING
    }
    gaining = [place for place, ratio in ratios.items() if ratio.high < 1.0]
    gain = gain_of(case.profile, ratios)
    if not gaining or not noticeable(gain):
        return
    yield Finding(
        title=f"Compute in {kind} ({how})",
        why=f"{len(gaining)} layers, {case.share(gaining):.0%} of the time, multiply in fp32, which the device does {case.peak(kind):.2g} "
        f"times as fast in {kind}; no data is needed for it.",
        evidence={
            "peak_over_fp32": round(case.peak(kind), 3),
            "share_gaining": round(case.share(gaining), 4),
        },
        layers=gaining,
        gain=gain,
        costs_accuracy=True,
        request=case.request(passes, params=params),
    )


@rule("tf32")
def tf32(case: Case) -> Iterator[Finding]:
    """Ten bits of mantissa on the tensor cores, where the target computes fp32 without them."""
    if case.params.get("tf32") is not False or case.peak("tf32") < WORTHWHILE or case.device != "cuda":
        return
    ideal = 1 / case.peak("tf32")
    ratios = {
        place: _half_ratio(kind, ideal)
        for place, (layer, kind) in enumerate(zip(case.layers, case.kinds, strict=True))
        if layer.precision == "fp32" and kind.kind != "other"
    }
    gain = gain_of(case.profile, ratios)
    if not noticeable(gain):
        return
    yield Finding(
        title="Let fp32 run on tensor cores (tf32=true)",
        why=f"{case.share(list(ratios)):.0%} of the time goes to products and convolutions in fp32; TF32 keeps their range and three "
        f"digits, and the device multiplies {case.peak('tf32'):.2g} times as fast in it.",
        evidence={"peak_over_fp32": round(case.peak("tf32"), 3), "share": round(case.share(list(ratios)), 4)},
        layers=list(ratios),
        gain=gain,
        costs_accuracy=True,
        request=case.request(params={"tf32": True}),
    )


def _produced(passes: list[dict[str, Any]]) -> str | None:
    """The precision that the last pass of several which changes it leaves."""
    found = None
    for step in passes:
        spec = PASSES[step["pass"]]
        found = (
            spec.produced(spec.params.model_validate(step.get("params", {})).model_dump(mode="json")) or found
        )
    return found


def _unfused(case: Case) -> list[str]:
    """Activations of a convolutional network that ONNX Runtime computes by themselves, in 8 bits or not."""
    if not case.runtime.startswith("onnxruntime") or case.model is None:
        return []
    if not any(kind.kind in ("convolution", "pointwise", "depthwise") for kind in case.kinds):
        return []
    return sorted(UNFUSED_ACTIVATIONS.intersection(case.model.operators))


def _eight_bits(case: Case, kind: LayerKind, *, dynamic: bool, unfused: bool) -> Ratio:
    ratio = _fused_eight_bits(case, kind, dynamic=dynamic)
    return Ratio(ratio.low, ratio.high * UNFUSED) if unfused else ratio


def _fused_eight_bits(case: Case, kind: LayerKind, *, dynamic: bool) -> Ratio:
    ideal = 1 / case.peak("int8")
    if kind.dense and not (dynamic and kind.kind != "product"):
        above = KERNELS if kind.kind == "convolution" else DENSE
        return Ratio(above.low * ideal, min(above.high * ideal, 0.95))
    if dynamic:
        return DYNAMIC_BETWEEN if kind.kind == "other" else SAME
    if kind.kind == "attention":
        return Ratio(DENSE.low * ideal, 1.1)
    return BETWEEN if kind.kind == "other" else FEW_CHANNELS


def _half_ratio(kind: LayerKind, ideal: float) -> Ratio:
    if kind.dense or kind.kind == "attention":
        return Ratio(HALF_DENSE.low * ideal, min(HALF_DENSE.high * ideal, 0.95))
    return BETWEEN if kind.kind == "other" else HALF_FEW_CHANNELS


def _half(case: Case) -> tuple[str, str, list[dict[str, Any]], Mapping[str, Any]] | None:
    """The precision, what sets it, and the passes or parameters that do; None where the runtime computes in fp32 whatever is asked."""
    asked = case.params.get("inference_precision")
    if case.runtime.startswith("openvino"):
        kind = "bf16" if case.device == "cpu" else "fp16"
        value = "bf16" if kind == "bf16" else "f16"
        return (
            (kind, f"inference_precision={value}", [], {"inference_precision": value})
            if asked == "f32"
            else None
        )
    if case.runtime in ("torch-eager", "torch-inductor-cpu"):
        return "bf16", "cast-torch", [{"pass": "cast-torch", "params": {"dtype": "bf16"}}], {}
    if case.device == "cuda":
        passes = case.preset_passes()
        if _produced(passes) == "fp16":
            return "fp16", " and ".join(step["pass"] for step in passes), passes, {}
    return None


def _why_not(case: Case, places: list[int]) -> list[dict[str, Any]]:
    """The slowest layers that gain nothing by fewer bits, each with the reason."""
    slowest = sorted(places, key=lambda place: -case.layers[place].mean_ms)[:NAMED]
    return [
        {
            "layer": case.layers[place].name,
            "share": round(case.layers[place].share, 4),
            "reason": _reason(case.layers[place], case.kinds[place]),
        }
        for place in slowest
    ]


def _reason(layer: Layer, kind: LayerKind) -> str:
    if layer.precision not in FLOATING:
        return f"it computes in {layer.precision} already"
    if kind.kind == "depthwise":
        return "a depthwise convolution does little arithmetic with each value"
    if kind.narrow:
        return f"{kind.channels_in} input channels are too few for 8-bit kernels"
    if layer.bound in ("memory", "overhead"):
        return {"memory": "memory bounds it", "overhead": "the cost of calling it outweighs its arithmetic"}[
            layer.bound
        ]
    return "it does not multiply by weights"


def _nothing_gained(case: Case, places: list[int]) -> str:
    share = case.share(places)
    return (
        f"The other {len(places)} layers, {share:.0%} of the time, gain little or nothing." if places else ""
    )
