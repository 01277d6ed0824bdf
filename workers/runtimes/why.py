"""What explains a speed-up, or the lack of one: sentences with numbers, from the facts of both engines."""

from collections.abc import Mapping
from typing import Any

SMALL_WEIGHTS = 200_000
LISTED = 3
_COMPUTE = "convolutions, matrix products, recurrent layers"
_NAMES = {
    "weights-4bit": "with 4-bit weights",
    "weights-8bit": "with 8-bit weights",
    "int8-dynamic": "in dynamic int8",
}

Facts = Mapping[str, Any]


def why(baseline: Facts, engine: Facts, comparison: Mapping[str, Any]) -> list[str]:
    """Sentences for `comparison.why`; facts as `onnx_facts.graph_facts` gives them, or another runtime with the same keys.

    `comparison` is the one of `api.md`: its `speedup.verdict` decides whether causes of slowness are looked for.
    """
    faster = (comparison.get("speedup") or {}).get("verdict") == "faster"
    sentences = [_nodes_by_precision(engine)]
    if _same(baseline, engine):
        sentences.append(
            "The optimized engine has the same nodes as the baseline: the passes changed nothing that the runtime's "
            "own optimizations did not reach as well."
        )
    elif engine["nodes"] != baseline["nodes"]:
        sentences.append(f"The engine runs {engine['nodes']} nodes, the baseline {baseline['nodes']}.")
    if "explained" in engine:  # the runtime's own words on its kernels; the others here are ONNX Runtime's
        sentences += engine["explained"]
    else:
        sentences += _quantization(engine)
        sentences += _half(engine)
        sentences += _channels(baseline, engine)
        if not faster:
            sentences += _depthwise(baseline, engine)
    if not faster:
        sentences += _smallness(engine)
    return sentences


def _nodes_by_precision(engine: Facts) -> str:
    counts = engine["compute"]
    total = sum(counts.values())
    if not total:
        return (
            "The model has no convolution, matrix product or recurrent layer: precision decides little here."
        )
    if len(counts) == 1:
        kind = next(iter(counts))
        return f"All {total} compute nodes ({_COMPUTE}) run {_NAMES.get(kind, 'in ' + kind)}."
    parts = [
        f"{count} {_NAMES.get(kind, 'in ' + kind)}"
        for kind, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return f"Of {total} compute nodes ({_COMPUTE}), {', '.join(parts[:-1])} and {parts[-1]} run."


def _quantization(engine: Facts) -> list[str]:
    sentences = []
    if count := engine["unfused"]["count"]:
        named = ", ".join(name for name in engine["unfused"]["nodes"][:LISTED] if name)
        sentences.append(
            f"Quantization is not fused in {_nodes(count)}{f' ({named} …)' if named else ''}: they compute in floating "
            "point and pay for converting their inputs besides. On x86, unsigned activations with signed weights fuse."
        )
    quantized = any(kind.startswith(("int8", "weights")) for kind in engine["compute"])
    if quantized and (left := engine["convolutions"].get("fp32", 0)):
        sentences.append(f"Convolutions in fp32: {left} of {sum(engine['convolutions'].values())}.")
    pairs = engine["conversions"]
    remaining = pairs.get("QuantizeLinear", 0) + pairs.get("DequantizeLinear", 0)
    if engine["compute"].get("int8") and remaining:
        sentences.append(
            f"{remaining} conversions between int8 and floating point remain, around operators without an 8-bit kernel."
        )
    if slow := engine["operators"].get("ConvInteger", 0):
        sentences.append(
            f"{slow} convolutions run as ConvInteger, which has no fast kernel: quantize-static is the form for them."
        )
    if dynamic := engine["compute"].get("int8-dynamic", 0):
        verb = "takes" if dynamic == 1 else "take"
        sentences.append(
            f"{_nodes(dynamic)} {verb} the range of the activations anew on every call, which costs time that grows "
            "with the input, not with the weights."
        )
    packed = sum(count for kind, count in engine["compute"].items() if kind.startswith("weights"))
    if packed:
        sentences.append(
            f"{_nodes(packed)} unpack block-quantized weights on every call: that pays where reading weights bounds "
            "the speed (large matrices, small batches)."
        )
    return sentences


def _half(engine: Facts) -> list[str]:
    given, kept = engine["model_half_weights"], engine["half_weights"]
    if not given:
        return []
    sentences = [
        f"The processor's kernels compute {engine['compute'].get('fp32', 0)} compute nodes in fp32 though the model "
        f"is in half precision, with {engine['operators'].get('Cast', 0)} casts in the graph: half precision saves "
        "space here, not time."
    ]
    if kept < given / 2:
        sentences.append(
            f"Building turned {given - kept} of {given} half-precision weights back into fp32 for this processor's "
            "memory layouts, so the engine is not smaller: the runtime's graph_optimization=extended keeps them."
        )
    return sentences


def _channels(baseline: Facts, engine: Facts) -> list[str]:
    """ONNX Runtime's convolutions on blocks of channels take inputs of 4, 8, 12 … channels (`NchwcTransformer` in its source)."""
    count = engine["unblocked"]["count"]
    if count <= baseline["unblocked"]["count"]:
        return []
    named = ", ".join(name for name in engine["unblocked"]["nodes"][:LISTED] if name)
    return [
        f"{count} convolutions{f' ({named} …)' if named else ''} read numbers of channels that are no multiples of 4, so the runtime "
        "computes them without its layout of channels in blocks, which costs more than a few channels save: prune-channels with "
        "round_to=16 keeps it."
    ]


def _depthwise(baseline: Facts, engine: Facts) -> list[str]:
    more = engine["depthwise"] - baseline["depthwise"]
    if more <= 0:
        return []
    return [
        f"{more} convolutions have become depthwise ones, which do little arithmetic with each value that they read: memory bounds "
        "their speed, and fewer operations are less time only where layers are wide."
    ]


def _smallness(engine: Facts) -> list[str]:
    if engine["weights"] >= SMALL_WEIGHTS:
        return []
    return [
        f"The network is small ({engine['weights']} constants): the fixed cost of a call and of each node outweighs "
        "the arithmetic that is saved."
    ]


def _same(baseline: Facts, engine: Facts) -> bool:
    return bool(
        baseline["operators"] == engine["operators"]
        and baseline["compute"] == engine["compute"]
        and baseline["weights"] == engine["weights"]
    )


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
