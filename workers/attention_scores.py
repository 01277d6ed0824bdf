"""What lies between products and the Softmax that reads them: attention scores, their scale, their mask."""

import onnx

ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Where")
LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Concat")


def before_softmax(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Each Softmax that reads a sum or a choice, and the nodes behind it back to products and other operators.

    A mask adds or chooses -10,000, the lowest float or -infinity. 8 bits over such a range leave the scores no level, and
    nothing computes them in 8 bits anyway.
    """
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}  # by first output: nodes may have no name
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        behind: dict[str, onnx.NodeProto] = {}
        waiting = [node.input[0]]
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is None or maker.output[0] in behind or maker.op_type not in ELEMENTWISE + LAYOUT:
                continue
            behind[maker.output[0]] = maker
            waiting += maker.input
        if any(maker.op_type in ("Add", "Sub", "Where") for maker in behind.values()):
            found |= {node.output[0]: node, **behind}
    return list(found.values())
