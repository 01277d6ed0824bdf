"""What a network compiled by OpenVINO says of its own speed, with the keys of `onnx_facts.graph_facts`, and in sentences."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from workers.openvino_ranges import is_eight_bit

COMPUTE = frozenset(
    [
        "Convolution",
        "Deconvolution",
        "FullyConnected",
        "MatMul",
        "RNNCell",
        "RNNSeq",
        "ScaledDotProductAttention",
        "ScaledDotProductAttentionWithKVCache",
        "GatherMatmul",
        "LLMMLP",
        "QKVProjection",
        "DeformableConvolution",
    ]
)
CONVOLUTIONS = frozenset(("Convolution", "Deconvolution", "DeformableConvolution"))
CONVERSIONS = frozenset(("FakeQuantize", "Convert", "Reorder"))
NOT_NODES = frozenset(("Const", "Input", "Output"))
BODY_COMPUTE = frozenset(
    [
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
        "MatMul",
        "LSTMCell",
        "LSTMSequence",
        "GRUCell",
        "GRUSequence",
        "RNNCell",
        "RNNSequence",
        "ScaledDotProductAttention",
    ]
)
BODY_NOT_NODES = frozenset(("Constant", "Parameter", "Result"))
BETWEEN = frozenset(("Reorder", "Convert", "Eltwise", "Subgraph", "Transpose", "Reshape"))
PRECISIONS = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8",
}  # fmt: skip
FLOATS = frozenset(("fp32", "fp16", "bf16", "fp64"))
EIGHT_BITS = frozenset(("i8", "u8"))
FOUR_BITS = frozenset(("i4", "u4", "nf4"))
STEPS_BACK = 8  # nodes between a compute node and where its input leaves int8
NAMED = 10
LISTED = 3


def compiled_facts(graph: Any, compiled: Any) -> dict[str, Any]:
    """Facts of a compiled network: `graph` is the openvino.Model, `compiled` what the device made of it.

    Keys as in `onnx_facts.graph_facts`; `operators` are the device's layers, nodes inside control flow are those of the
    graph. Besides: `inference_precision` (what floating point is computed in), `int8_share` (of compute nodes, or None),
    `explained` (sentences for the report).
    """
    effective = PRECISIONS.get(
        compiled.get_property("INFERENCE_PRECISION_HINT").to_string(), "as the model has it"
    )
    operators: Counter[str] = Counter()
    precision: Counter[str] = Counter()
    compute: Counter[str] = Counter()
    convolutions: Counter[str] = Counter()
    unfused: list[str] = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind = runtime_info(node, "layerType")
        if kind in NOT_NODES:
            continue
        operators[kind] += 1
        where = _precision(node, kind)
        precision[where] += 1
        if kind in COMPUTE:
            compute[where] += 1
            if kind in CONVOLUTIONS:
                convolutions[where] += 1
            if where in FLOATS and _leaves_int8(node):
                unfused.append(node.get_friendly_name())
    for node in _inner_nodes(graph):
        kind = node.get_type_name()
        where = effective if kind in BODY_COMPUTE and effective in FLOATS else "other"
        operators[kind] += 1
        precision[where] += 1
        if kind in BODY_COMPUTE:
            compute[where] += 1
    total = sum(compute.values())
    facts = {
        "nodes": sum(operators.values()),
        "operators": dict(operators),
        "precision": dict(precision),
        "compute": dict(compute),
        "convolutions": dict(convolutions),
        "conversions": {kind: operators[kind] for kind in sorted(CONVERSIONS) if operators[kind]},
        "unfused": {"count": len(unfused), "nodes": unfused[:NAMED]},
        **weight_counts(graph),
        "hardware_layout": False,
        "inference_precision": effective,
        "int8_share": round(compute["int8"] / total, 4) if total else None,
    }
    return {**facts, "explained": sentences(facts)}


def model_facts(graph: Any, device: str, computed_in: str) -> dict[str, Any]:
    """Facts of a model for a device whose plugin does not say which kernels it took, with the keys of `compiled_facts`.

    Counted are the graph's own nodes; those whose inputs are in 8 bits count as int8, the other compute nodes as
    `computed_in`, which is one of OpenVINO's types.
    """
    effective = PRECISIONS.get(computed_in, "as the model has it")
    nodes = [
        *(node for node in graph.get_ordered_ops() if node.get_type_name() not in BODY_NOT_NODES),
        *_inner_nodes(graph),
    ]
    compute: Counter[str] = Counter()
    convolutions: Counter[str] = Counter()
    for node in nodes:
        if (kind := node.get_type_name()) in BODY_COMPUTE:
            where = "int8" if is_eight_bit(node, 0) and is_eight_bit(node, 1) else effective
            compute[where] += 1
            convolutions[where] += "Convolution" in kind
    operators = Counter(node.get_type_name() for node in nodes)
    others = len(nodes) - sum(compute.values())
    return {
        "nodes": len(nodes),
        "operators": dict(operators),
        "precision": {**compute, **({"other": others} if others else {})},
        "compute": dict(compute),
        "convolutions": {where: count for where, count in convolutions.items() if count},
        "conversions": {},
        "unfused": {"count": 0, "nodes": []},
        **weight_counts(graph),
        "hardware_layout": False,
        "inference_precision": effective,
        "int8_share": round(compute["int8"] / sum(compute.values()), 4) if compute else None,
        "explained": [
            f"Counted are the model's own nodes: OpenVINO's {device} plugin does not say which kernels it took."
        ],
    }


def weight_counts(graph: Any) -> dict[str, int]:
    """`weights` and `half_weights`: elements of all constants of an openvino.Model, and of those in half precision."""
    weights = half = 0
    for node in (*graph.get_ops(), *_inner_nodes(graph, constants=True)):
        if node.get_type_name() == "Constant":
            count = 1
            for dim in node.get_output_shape(0):
                count *= dim
            weights += count
            half += count if node.get_element_type().to_string() in ("f16", "bf16") else 0
    return {"weights": weights, "half_weights": half}


def sentences(facts: dict[str, Any]) -> list[str]:
    """What the facts mean for the speed."""
    found = []
    compute, unfused = facts["compute"], facts["unfused"]
    if count := unfused["count"]:
        named = ", ".join(unfused["nodes"][:LISTED])
        found.append(
            f"{count} compute nodes ({named}{' …' if count > LISTED else ''}) take quantized input but compute in "
            "floating point: OpenVINO has no 8-bit kernel for this form. quantize-openvino makes the form that it has."
        )
    elif compute.get("int8") and sum(compute.values()) > compute["int8"]:
        found.append(
            f"{facts['int8_share']:.0%} of the compute nodes run in int8; the others were not quantized."
        )
    if compute.get("int8") and (count := facts["conversions"].get("FakeQuantize", 0)):
        stand = "conversion to 8 bits stands" if count == 1 else "conversions to 8 bits stand"
        found.append(f"{count} {stand} alone; all others are part of the node before them.")
    packed = sum(count for kind, count in compute.items() if kind.startswith("weights"))
    if packed:
        found.append(
            f"{packed} compute nodes unpack 4- or 8-bit weights as they run: that pays where reading weights bounds "
            "the speed (large matrices, small batches)."
        )
    if facts["inference_precision"] in ("bf16", "fp16"):
        found.append(
            f"Floating point is computed in {facts['inference_precision']}: the target's inference_precision says so, "
            "and the processor has instructions for it."
        )
    elif facts["half_weights"] and compute.get("fp32"):
        found.append(
            "Weights are stored in half precision and computed with in fp32: that saves space, not time. "
            "inference_precision=bf16 is faster where the processor has instructions for it."
        )
    return found


def _precision(node: Any, kind: str) -> str:
    if kind in CONVERSIONS:
        return "conversion"
    if kind in COMPUTE and len(node.inputs()) > 1:
        # the precision that OpenVINO tells of a node with packed weights is that of the weights
        given, stored = (node.input(place).get_element_type().to_string() for place in (0, 1))
        if given not in EIGHT_BITS and stored in EIGHT_BITS | FOUR_BITS:
            return "weights-8bit" if stored in EIGHT_BITS else "weights-4bit"
    return PRECISIONS.get(runtime_info(node, "runtimePrecision"), "other")


def _leaves_int8(node: Any) -> bool:
    """Whether the node's first input was quantized and came back to floating point on the way."""
    for _ in range(STEPS_BACK):
        if not node.inputs():
            return False
        node = node.input(0).get_source_output().get_node()
        kind = runtime_info(node, "layerType")
        if kind not in BETWEEN or not node.inputs():
            return False
        if node.input(0).get_element_type().to_string() in EIGHT_BITS and (
            kind == "Convert" or "Dequantization" in node.get_friendly_name()
        ):
            return True
    return False


def _inner_nodes(graph: Any, *, constants: bool = False) -> Iterator[Any]:
    """The nodes inside If, Loop and TensorIterator, at any depth."""
    for node in graph.get_ops():
        for body in _bodies(node):
            for inner in body.get_ops():
                if constants or inner.get_type_name() not in BODY_NOT_NODES:
                    yield inner
            yield from _inner_nodes(body, constants=constants)


def _bodies(node: Any) -> list[Any]:
    if node.get_type_name() == "If":
        return [node.get_function(0), node.get_function(1)]
    if node.get_type_name() in ("Loop", "TensorIterator"):
        return [node.get_function()]
    return []


def runtime_info(node: Any, key: str) -> str:
    """What a device tells of a node of its graph, under one of the keys of `openvino/runtime/exec_model_info.hpp`."""
    value = node.get_rt_info()[key]
    return str(getattr(value, "value", value))
