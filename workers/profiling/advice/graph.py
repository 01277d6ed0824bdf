"""Nodes that a runtime could do together, or need not do at all."""

from collections.abc import Iterator

from app.catalog.runtimes import RUNTIMES
from app.profiles.schemas import Layer
from workers.profiling.advice import rule
from workers.profiling.advice.precision import DENSE
from workers.profiling.advising import Case, Finding
from workers.profiling.gains import Ratio, gain_of, noticeable

WORTH_A_WORD = 0.03  # of the time
CONVOLUTIONAL = (
    0.1  # of the time in convolutions: networks without were slower with all of ONNX Runtime's fusions
)
FUSED_ATTENTION = frozenset(
    ("attention", "multiheadattention", "scaleddotproductattention", "mha", "qattention")
)
AROUND_ATTENTION = frozenset(
    (
        "softmax", "where", "select", "isnan", "transpose", "reshape", "slice", "concat", "expand", "unsqueeze", "erf", "reducemean", "pow",
        "sqrt", "aten::softmax", "aten::where", "aten::transpose", "aten::masked_fill",
    )
)  # fmt: skip
NORMS = ("batchnorm",)
ACTIVATIONS = frozenset(("relu", "clip", "leakyrelu", "sigmoid", "hardswish", "hardsigmoid", "silu"))
REORDERS = frozenset(("reorder", "reorderinput", "reorderoutput"))
CONVERSIONS = frozenset(("quantizelinear", "dequantizelinear", "cast", "convert", "fakequantize"))

# new time over the time before, measured: see `docs/decisions/profiling.md`
ATTENTION = Ratio(0.3, 1.0)
FUSED_AWAY = Ratio(0.05, 0.6)
ABOVE_FLOOR = 1.1  # times the rate of its floor, which the best kernels reach


@rule("fuse-transformer")
def fuse_transformer(case: Case) -> Iterator[Finding]:
    """Attention, layer norms and GELU written out in single operators, where the runtime has one for each."""
    if case.precision != "fp32" or "onnxruntime" not in RUNTIMES[case.runtime].dialects:
        return
    names = [layer.operator.lower() for layer in case.layers]
    if "softmax" not in names or FUSED_ATTENTION.intersection(names):
        return
    around = [
        place
        for place, (name, kind) in enumerate(zip(names, case.kinds, strict=True))
        if name in AROUND_ATTENTION or kind.kind == "attention"
    ]
    gain = gain_of(case.profile, dict.fromkeys(around, ATTENTION))
    if case.share(around) < WORTH_A_WORD or not noticeable(gain):
        return
    yield Finding(
        title="Fuse attention into one operator",
        why=f"Attention is written out in single operators: {len(around)} of them take {case.share(around):.0%} of the time. As one it holds "
        "no matrix of all scores, which long sequences gain most from.",
        evidence={
            "operators": len(around),
            "share": round(case.share(around), 4),
            "softmax": names.count("softmax"),
        },
        layers=around,
        gain=gain,
        request=case.request([{"pass": "simplify"}, {"pass": "fuse-transformer"}]),
    )


@rule("fusion")
def fusion(case: Case) -> Iterator[Finding]:
    """Convolutions, with norms and activations around them, that the target's `graph_optimization` keeps from fusion and fast layouts."""
    given = case.params.get("graph_optimization")
    computing = [
        place
        for place, kind in enumerate(case.kinds)
        if kind.kind in ("convolution", "pointwise", "depthwise") and case.layers[place].floor_ms is not None
    ]
    if given in (None, "all") or case.share(computing) < CONVOLUTIONAL:
        return
    apart = [
        place
        for place, layer in enumerate(case.layers)
        if layer.operator.lower() in ACTIVATIONS or layer.operator.lower().startswith(NORMS)
    ]
    ratios = {place: _towards_floor(case.layers[place]) for place in computing}
    gain = gain_of(case.profile, {**ratios, **dict.fromkeys(apart, FUSED_AWAY)})
    if not noticeable(gain):
        return
    yield Finding(
        title="Let the runtime fuse and lay out as it likes (graph_optimization=all)",
        why=f"At graph_optimization={given} the runtime does not lay out channels in blocks for its {len(computing)} convolutions, "
        f"{case.share(computing):.0%} of the time, which take {_over_floor(case, computing):.2g} times as long as the device allows"
        + (
            f"; {len(apart)} norms and activations run by themselves, {case.share(apart):.0%}."
            if apart
            else "."
        ),
        evidence={
            "graph_optimization": given,
            "convolutions_share": round(case.share(computing), 4),
            "apart": len(apart),
            "apart_share": round(case.share(apart), 4),
        },
        layers=[*computing, *apart],
        gain=gain,
        request=case.request(params={"graph_optimization": "all"}),
    )


def _towards_floor(layer: Layer) -> Ratio:
    """From what the device allows, to what it takes now."""
    least = (layer.floor_ms or 0.0) / layer.mean_ms / ABOVE_FLOOR if layer.mean_ms else 1.0
    return Ratio(min(max(least, 0.02), 1.0), 1.0)


def _over_floor(case: Case, places: list[int]) -> float:
    floor = sum(case.layers[place].floor_ms or 0.0 for place in places)
    return sum(case.layers[place].mean_ms for place in places) / floor if floor else 1.0


@rule("unfused-quantization")
def unfused_quantization(case: Case) -> Iterator[Finding]:
    """Layers that were quantized and compute in floating point: on x86, activations have to be unsigned."""
    count = (case.engine.get("unfused") or {}).get("count", 0)
    if not count:
        return
    names = set(case.engine["unfused"].get("nodes", ()))
    converting = [place for place, layer in enumerate(case.layers) if layer.operator.lower() in CONVERSIONS]
    computing = [
        place
        for place, (layer, kind) in enumerate(zip(case.layers, case.kinds, strict=True))
        if kind.dense and layer.precision == "fp32"
    ]
    step = next((step for step in case.recipe if step["pass"] == "quantize-static"), None)
    signed = step is not None and step["params"].get("activation_type") == "int8"
    gain = None
    if signed and case.peak("int8") > 1:
        ideal = 1 / case.peak("int8")
        ratios = {
            **dict.fromkeys(computing, Ratio(DENSE.low * ideal, 1.0)),
            **dict.fromkeys(converting, FUSED_AWAY),
        }
        gain = gain_of(case.profile, ratios)
    yield Finding(
        title="Quantize with unsigned activations" if signed else "Quantization that is not fused",
        why=f"{count} quantized layers compute in floating point, and {len(converting)} conversions around them take "
        f"{case.share(converting):.0%} of the time. "
        + (
            "x86 has fast kernels for unsigned activations with signed weights alone."
            if signed
            else "Quantize the original fp32 model with `quantize-static`, whose defaults the runtime fuses."
        ),
        evidence={
            "unfused": count,
            "nodes": sorted(names),
            "conversions_share": round(case.share(converting), 4),
        },
        layers=computing,
        gain=gain,
        costs_accuracy=signed,
        request=case.request(
            changed={"quantize-static": {"activation_type": "uint8", "symmetric_activations": False}}
        )
        if signed
        else None,
    )


@rule("reorders")
def reorders(case: Case) -> Iterator[Finding]:
    """Changes of memory layout that take time: nobody asked for them, layers that want other layouts make them."""
    found = [
        place
        for place, layer in enumerate(case.layers)
        if layer.operator.lower() in REORDERS or (not layer.layers and layer.operator.lower() == "transpose")
    ]
    share = case.share(found)
    if share < WORTH_A_WORD:
        return
    nhwc = case.params.get("prefer_nhwc") is False
    yield Finding(
        title="Keep one memory layout (prefer_nhwc=true)" if nhwc else "Changes of memory layout take time",
        why=f"{len(found)} reorders that the runtime added take {share:.0%} of the time. "
        + (
            "Convolutions on tensor cores want channels last throughout."
            if nhwc
            else "They stand around layers that its blocked layout does not cover: operators between convolutions that it computes "
            "otherwise, and numbers of channels that are no multiples of 4."
        ),
        evidence={"reorders": len(found), "share": round(share, 4)},
        layers=found,
        gain=gain_of(case.profile, dict.fromkeys(found, Ratio(0.05, 1.0))) if nhwc else None,
        request=case.request(params={"prefer_nhwc": True}) if nhwc else None,
    )
