"""Linear layers of a graph and their weights, whichever operator they are: Conv, Gemm, or MatMul with its Add."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from workers.onnx_files import graphs


@dataclass(frozen=True)
class Layer:
    """A node with constant weights. `output` is its result with the bias added; `bias` is None where it has none."""

    node: NodeProto
    weight: str
    bias: str | None
    output: str
    groups: int = 1
    transposed: bool = False  # of Gemm and MatMul: weights are [outputs, inputs]


class Network:
    """The main graph of a prepared model, by makers, readers and constants; weights that several nodes read stay out."""

    def __init__(self, model: onnx.ModelProto):
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for graph in graphs(model.graph):
            for node in graph.node:
                for name in node.input:
                    self.readers.setdefault(name, []).append(node)
        self._results = {value.name for graph in graphs(model.graph) for value in graph.output}
        self.shapes = {
            value.name: [
                d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
            ]
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        found = (self._layer(node) for node in model.graph.node)
        self.layers = [layer for layer in found if layer is not None]
        self._by_node = {layer.node.name: layer for layer in self.layers}

    def layer_of(self, node: NodeProto) -> Layer | None:
        """The layer that a node is."""
        return self._by_node.get(node.name)

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a value; None where there are more, or it is an output."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._results else None

    def array(self, name: str) -> np.ndarray:
        """A constant's values."""
        return numpy_helper.to_array(self.constants[name])

    def replace(self, name: str, values: np.ndarray) -> None:
        """Change a constant."""
        self.constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    def _own(self, name: str, rank: int | None = None) -> bool:
        """Whether a value is a fp32 constant that one node alone reads."""
        tensor = self.constants.get(name)
        return (
            tensor is not None
            and tensor.data_type == onnx.TensorProto.FLOAT
            and (rank is None or len(tensor.dims) == rank)
            and self.only_reader(name) is not None
        )

    def _layer(self, node: NodeProto) -> Layer | None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("Conv", "Gemm", "MatMul"):
            return None
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = node.input[1]
        if not self._own(weight, None if node.op_type == "Conv" else 2):
            return None
        if node.op_type == "MatMul":
            return self._with_addition(node, weight)
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and not self._own(bias, 1):
            return None
        if node.op_type == "Conv":
            return Layer(node, weight, bias, node.output[0], given.get("group", 1))
        if (given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)) != (1.0, 1.0, 0):
            return None
        outputs = self.constants[weight].dims[0 if given.get("transB", 0) else 1]
        if bias is not None and self.constants[bias].dims[0] != outputs:
            return None
        return Layer(node, weight, bias, node.output[0], transposed=bool(given.get("transB", 0)))

    def _with_addition(self, node: NodeProto, weight: str) -> Layer:
        addition = self.only_reader(node.output[0])
        if addition is not None and addition.op_type == "Add":
            bias = next((name for name in addition.input if name != node.output[0]), "")
            if self._own(bias, 1) and self.constants[bias].dims[0] == self.constants[weight].dims[1]:
                return Layer(node, weight, bias, addition.output[0])
        return Layer(node, weight, None, node.output[0])


def by_output(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """Weights as [outputs, the rest]."""
    return weight.reshape(len(weight), -1) if layer.node.op_type == "Conv" or layer.transposed else weight.T


def by_input(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """Weights as [inputs, the rest]: of a grouped convolution, each input with the outputs of its group."""
    if layer.node.op_type != "Conv":
        return weight.T if layer.transposed else weight
    outputs, inside = weight.shape[:2]
    grouped = weight.reshape(layer.groups, outputs // layer.groups, inside, -1)
    return grouped.transpose(0, 2, 1, 3).reshape(layer.groups * inside, -1)


def scaled_outputs(layer: Layer, weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Weights with each output multiplied by its factor."""
    first = layer.node.op_type == "Conv" or layer.transposed
    result: np.ndarray = weight * (factors.reshape(-1, *[1] * (weight.ndim - 1)) if first else factors)
    return result


def scaled_inputs(layer: Layer, weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Weights with each input multiplied by its factor."""
    if layer.node.op_type == "Conv":
        outputs, inside = weight.shape[:2]
        each = np.repeat(factors.reshape(layer.groups, inside), outputs // layer.groups, axis=0)
        factors = each.reshape(outputs, inside, *[1] * (weight.ndim - 2))
    elif not layer.transposed:
        factors = factors[:, None]
    result: np.ndarray = weight * factors
    return result
