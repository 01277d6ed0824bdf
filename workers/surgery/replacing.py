"""Two layers in place of one, in a lifted network."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import fx, nn


def replace(network: fx.GraphModule, name: str, parts: Mapping[str, nn.Module]) -> None:
    """Call the parts one behind another wherever the layer is called; they are named below it: `name.part`."""
    container = nn.Sequential(OrderedDict(parts)).eval()
    network.set_submodule(name, container)
    graph = network.graph
    for node in [node for node in graph.nodes if node.op == "call_module" and node.target == name]:
        value, *rest = node.args
        assert not rest
        assert not node.kwargs
        with graph.inserting_before(node):
            for part in parts:
                value = graph.call_module(f"{name}.{part}", (value,))
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    network.recompile()
