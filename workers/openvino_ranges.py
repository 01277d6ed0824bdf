"""Which inputs of a graph's nodes hold 8-bit values: NNCF's FakeQuantize, or weights that were compressed."""

from typing import Any

FAKE = "FakeQuantize"
DEQUANTIZING = ("Multiply", "Subtract", "Convert")
PASSING_ON = (  # an 8-bit range before these holds behind them
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit", "StridedSlice", "Slice", "Gather",
    "MaxPool", "Pad", "Relu", "Clamp", "Broadcast", "Tile",
)  # fmt: skip


def is_eight_bit(node: Any, place: int) -> bool:
    """Whether an input comes from a FakeQuantize, or from an 8-bit constant by the nodes that dequantize one."""
    source = node.input_value(place)  # not its node: a MaxPool or a Split has several outputs
    while source.get_node().get_type_name() in DEQUANTIZING + PASSING_ON:
        source = source.get_node().input_value(0)
        if source.get_element_type().to_string() in ("i8", "u8"):
            return True
    return bool(source.get_node().get_type_name() == FAKE)


def reads_eight_bit(graph: Any) -> list[str]:
    """The nodes that compute with an 8-bit input, by name, in order: not those that make, undo or pass on 8-bit values."""
    silent = (*DEQUANTIZING, *PASSING_ON, FAKE, "Result")
    return [
        node.get_friendly_name()
        for node in graph.get_ordered_ops()
        if node.get_type_name() not in silent
        and any(is_eight_bit(node, place) for place in range(len(node.inputs())))
    ]
