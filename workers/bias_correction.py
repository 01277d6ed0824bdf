"""Empirical bias correction: the mean error that quantization leaves in a layer's outputs is taken out of its bias.

Layer by layer, first ones first, as a correction moves what later layers see. Only means are kept of the data.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2 and
appendix D (https://arxiv.org/abs/1906.04721).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from workers.calibration import Report, probed
from workers.context import Samples
from workers.onnx_layers import Network, by_output

OPERATORS = ("Conv", "Gemm")  # whose bias is an input of their own, in 32 bits beside 8-bit weights


@dataclass(frozen=True)
class Corrected:
    """A quantized layer: its output in both models, and its bias with the scale that it is stored by."""

    plain: str
    quantized: str
    axis: int  # of channels
    bias: str
    scale: str


@dataclass(frozen=True)
class Means:
    """Of a value's channels, over the data: the mean, and the mean magnitude."""

    mean: np.ndarray
    magnitude: np.ndarray


def give_biases(model: onnx.ModelProto, excluded: Collection[str]) -> None:
    """Add biases of zero to layers that have none, so that there is one to correct."""
    network = Network(model)
    for layer in network.layers:
        node = layer.node
        if node.op_type in OPERATORS and layer.bias is None and node.name not in excluded:
            outputs = len(by_output(layer, network.array(layer.weight)))
            name = f"{node.output[0]}__bias"
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(outputs, np.float32), name))
            del node.input[2:]
            node.input.append(name)


def correct_biases(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, samples: Samples, limit: int, report: Report
) -> dict[str, Any]:
    """Correct the biases of `quantized`, in place, to what `plain` gives on at most `limit` samples.

    The answer: {layers, samples, shift_before, shift_after}; a shift is the mean error of a channel over its mean
    magnitude, averaged over channels and layers. `probed` says what is raised.
    """
    layers = find_layers(plain, quantized)
    told = {"layers": len(layers), "samples": min(samples.count, limit)}
    if not layers:
        return {**told, "shift_before": 0.0, "shift_after": 0.0}
    axes = {layer.plain: layer.axis for layer in layers}
    wanted = _means(plain, axes, samples, limit)
    own = {layer.quantized: layer.axis for layer in layers}
    before = _shift(layers, wanted, _means(quantized, own, samples, limit))
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for number, layer in enumerate(layers):
        report(number, len(layers), "correcting biases")
        found = _means(quantized, {layer.quantized: layer.axis}, samples, limit)[layer.quantized]
        _subtract(tensors, layer, found.mean - wanted[layer.plain].mean)
    after = _shift(layers, wanted, _means(quantized, own, samples, limit))
    return {**told, "shift_before": before, "shift_after": after}


def find_layers(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> list[Corrected]:
    """The layers of both models whose bias is stored in 32 bits, in the graph's order."""
    makers = {name: node for node in quantized.graph.node for name in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    readers: dict[str, int] = {}
    for node in quantized.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    nodes = {node.name: node for node in plain.graph.node if node.op_type in OPERATORS}
    found = []
    for node in quantized.graph.node:
        stored = _stored_bias(node, makers)
        if node.name not in nodes or stored is None:
            continue
        bias, scale = stored.input[:2]
        if (
            kinds.get(bias) == TensorProto.INT32
            and scale in kinds
            and readers[bias] == readers[stored.output[0]] == 1
        ):
            axis = 1 if node.op_type == "Conv" else -1
            found.append(Corrected(nodes[node.name].output[0], node.output[0], axis, bias, scale))
    return found


def _stored_bias(node: NodeProto, makers: dict[str, NodeProto]) -> NodeProto | None:
    maker = makers.get(node.input[2]) if node.op_type in OPERATORS and len(node.input) > 2 else None
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _means(model: onnx.ModelProto, axes: dict[str, int], samples: Samples, limit: int) -> dict[str, Means]:
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for values in probed(model, [], list(axes), samples, limit):
        for name, axis in axes.items():
            rows = np.moveaxis(values[name], axis, 0).reshape(values[name].shape[axis], -1).astype(np.float64)
            both = np.stack([rows.sum(axis=1), np.abs(rows).sum(axis=1)])
            sums[name] = sums.get(name, 0) + both
            counts[name] = counts.get(name, 0) + rows.shape[1]
    return {name: Means(*(total / counts[name])) for name, total in sums.items()}


def _shift(layers: list[Corrected], wanted: dict[str, Means], found: dict[str, Means]) -> float:
    shares = [
        np.mean(
            np.abs(found[layer.quantized].mean - wanted[layer.plain].mean)
            / np.maximum(wanted[layer.plain].magnitude, 1e-12)
        )
        for layer in layers
    ]
    return float(np.mean(shares))


def _subtract(tensors: dict[str, TensorProto], layer: Corrected, error: np.ndarray) -> None:
    tensor = tensors[layer.bias]
    steps = np.rint(error / numpy_helper.to_array(tensors[layer.scale]).astype(np.float64))
    held = np.iinfo(np.int32)
    bias = np.clip(numpy_helper.to_array(tensor) - steps, held.min, held.max).astype(np.int32)
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
