"""From the rows of a profile to the layers of the model that was uploaded: through the model that the engine was built from.

Two steps. A row's `sources` are operations of the model that the engine was built from; where the runtime does not tell them, an engine
that is an ONNX graph is followed back (`lineage.py`). Those are followed on to the uploaded model: the same, changed by passes, or
converted from PyTorch, whose exporter writes each node's module (`namespace`) and keeps the names of weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from workers.model_handle import ModelHandle
from workers.profiling.lineage import lineage
from workers.profiling.onnx_labels import labelled
from workers.profiling.onnx_lineage import onnx_graph
from workers.profiling.recorded import Row

NAMESPACE = (
    "namespace"  # of a node's metadata, as torch.onnx writes it: `NAME: CLASS/NAME: CLASS/…/NODE: OPERATOR`
)
PARTS_OF_MODULE = ("weight", "bias", "running_mean", "running_var")

Layers = Mapping[str, tuple[str, ...]]


def with_sources(rows: Sequence[Row], engine: onnx.ModelProto, source: ModelHandle) -> list[Row]:
    """Rows that name nodes of an engine's graph, with the operations of its source that they compute."""
    found = lineage(onnx_graph(engine), onnx_graph(source.load_onnx(weights=False)))
    return [row if row.sources else replace(row, sources=found.get(row.name, ())) for row in rows]


def layers_of(source: ModelHandle, original: ModelHandle) -> Layers:
    """By each operation of the model that an engine was built from, the layers of the uploaded one that it computes.

    Empty where one is the other, or nothing leads from one to the other: an operation then goes by its own name.
    """
    if source.digest == original.digest or source.format != "onnx":
        return {}
    made = source.load_onnx(weights=False)
    if original.format == "onnx":
        return lineage(onnx_graph(made), onnx_graph(original.load_onnx(weights=False)))
    return modules(made)


def layers_by_row(rows: Sequence[Row], layers: Layers) -> list[list[str]]:
    """The uploaded model's layers of each row, in order."""
    return [
        list(dict.fromkeys(name for one in row.sources for name in layers.get(one, (one,)))) for row in rows
    ]


def modules(model: onnx.ModelProto) -> Layers:
    """The modules of a PyTorch network that the nodes of its exported graph come from.

    The exporter folds batch norms into convolutions and then names the batch norm: a weight's name tells the layer that it is of.
    """
    level = labelled(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for label, node in zip(level.labels, model.graph.node, strict=True):
        of_weights = [
            name.rpartition(".")[0]
            for name in node.input
            if name in weights and name.rpartition(".")[2] in PARTS_OF_MODULE
        ]
        named = list(dict.fromkeys(name for name in of_weights if name)) or _namespace(node)
        if named:
            found[label] = tuple(named)
    return found


def _namespace(node: onnx.NodeProto) -> list[str]:
    """The innermost module that a node was called in; none where that is the whole network."""
    text = next((entry.value for entry in node.metadata_props if entry.key == NAMESPACE), "")
    names = [piece.partition(":")[0].strip() for piece in text.split("/")[:-1]]
    return [name for name in names[-1:] if name]
