"""Names on the way between PyTorch and ONNX: which layers of a program a node of its exported graph computes, and which nodes of an
ONNX model a layer of the network is that it became.

PyTorch's exporter writes for each node the modules around it and the call in the program that it comes from (`namespace`); it folds
batch norms into convolutions, and such a node is then the batch norm's: the name of its weight tells the convolution.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from workers.profiling.onnx_labels import labelled

NAMESPACE = "namespace"  # of a node's metadata: `NAME: CLASS/NAME: CLASS/…/CALL: OPERATOR`
_WEIGHT = ".weight"
_OF_NODE = "node_"  # what the exporter puts before a call's name to name its node
_PRODUCT = re.compile(r"(?:matmul|bmm|mm)(?:_\d+)?")

Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Place:
    """Where a node of an exported graph comes from: the innermost module, the call in the program, and modules whose weight it reads."""

    module: str
    call: str
    owners: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProgramNames:
    """What is called how in a program: the `layers`, {call: layer} for those that layers make, and all its `calls` in their order."""

    layers: frozenset[str]
    by_call: Mapping[str, str]
    calls: tuple[str, ...]

    def nearest(self, name: str) -> tuple[str, ...]:
        """The layer, call or weight of this name, or the layer that it is now a part of: passes make `conv.depthwise` of `conv`."""
        if name in self.layers or (name in self.calls and name not in self.by_call):
            return (name,)
        if name in self.by_call:
            return (self.by_call[name],)
        parts = name.split(".")
        outer = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
        return next(((one,) for one in outer if one in self.layers), ())

    def of(self, place: Place) -> tuple[str, ...]:
        """The layers that a node of the exported graph computes, as structure reports name them.

        A call's layer counts where it is the module's, or a part of it: a program that a pass has changed numbers its calls anew.
        """
        layer = self.by_call.get(place.call, "")
        if layer and (not place.module or f"{layer}.".startswith(f"{place.module}.")):
            own: tuple[str, ...] = (layer,)
        else:
            other = place.call if place.call in self.calls else place.module
            own = self.nearest(place.module) or ((other,) if other else ())
        owners = (name for owner in place.owners for name in self.nearest(owner))
        return tuple(dict.fromkeys((*owners, *own)))


def places(model: onnx.ModelProto) -> dict[str, Place]:
    """By the nodes of an exported graph for which the exporter says it, where they come from."""
    found = {}
    for level in labelled(model.graph).levels():
        matrices = {one.name for one in level.graph.initializer if len(one.dims) > 1}
        for label, node in zip(level.labels, level.graph.node, strict=True):
            text = next((entry.value for entry in node.metadata_props if entry.key == NAMESPACE), "")
            names = [piece.partition(":")[0].strip() for piece in text.split("/")]
            if text:
                module = names[-2] if len(names) > 1 else ""
                found[label] = Place(module, names[-1], tuple(_owners(node, matrices, module)))
    return found


def _owners(node: onnx.NodeProto, matrices: set[str], module: str) -> Iterable[str]:
    """Modules beside a node's own whose weight matrix it reads. Elsewhere such a name says nothing: equal weights are stored once."""
    around = module.rpartition(".")[0]
    for name in node.input:
        owner = name.removesuffix(_WEIGHT)
        if name in matrices and owner != name and f"{owner}.".startswith(f"{around}." if around else ""):
            yield owner


def call_named(name: str) -> str:
    """The call that a node of an exported graph is named after, where the exporter's own notes are lost."""
    return name.removeprefix(_OF_NODE)


class OnnxNames:
    """The nodes of an ONNX model by the names that they have in the network that it becomes (`workers.onnx_to_torch`)."""

    def __init__(self, model: onnx.ModelProto):
        from workers.onnx_to_torch.names import dotted

        self._dotted = dotted
        self._labels: dict[str, list[str]] = defaultdict(list)
        self._products: list[str] = []
        for level in labelled(model.graph).levels():
            constants = {one.name for one in level.graph.initializer}
            turned = {
                node.output[0]: node.input[0]
                for node in level.graph.node
                if node.op_type == "Transpose" and node.input[0] in constants
            }
            for label, node in zip(level.labels, level.graph.node, strict=True):
                read = [turned.get(name, name) for name in node.input]
                weights = [name for name in read if name in constants]
                for name in dict.fromkeys(self._named(label, weight) for weight in weights[:1]):
                    self._labels[name].append(label)
                if not weights:
                    self._labels[dotted(label)].append(label)
                if node.op_type == "MatMul" and not weights:
                    self._products.append(label)

    def of(self, place: Place, products: Sequence[str]) -> tuple[str, ...]:
        """The nodes that a layer is, or a call. `products` are the calls that multiply two values, in order."""
        if place.call in products and len(products) == len(self._products):
            return (self._products[products.index(place.call)],)
        return next((found for name in (*place.owners, place.module) if (found := self.nearest(name))), ())

    def nearest(self, name: str) -> tuple[str, ...]:
        """The nodes that became the layer of this name, or the one that it is a part of."""
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            base, _, number = (outer := ".".join(parts[:length])).rpartition("_")
            if outer in self._labels:
                return tuple(self._labels[outer][:1])
            several = self._labels.get(base, ())
            if number.isdigit() and 1 < int(number) <= len(several):  # a name that was taken is numbered
                return (several[int(number) - 1],)
        return ()

    def _named(self, label: str, weight: str) -> str:
        owner, _, last = weight.rpartition(".")
        return self._dotted(owner if owner and last.isidentifier() else label)


def products_of(calls: Iterable[str]) -> list[str]:
    """Those of a program's calls that multiply two values."""
    return [call for call in dict.fromkeys(calls) if _PRODUCT.fullmatch(call)]
