"""Whole networks, exported by both exporters: the same numbers as ONNX Runtime's, real layers, weights that train, export anew."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from tests.workers.onnx_to_torch.exports import (
    decibels,
    exported,
    exported_again,
    in_onnxruntime,
    run,
    unmoved,
)
from workers.onnx_to_torch.convert import to_module

LAYERS = {
    "resnet18_wd4": {"Conv2d": 21, "Linear": 1},
    "mobilenetv2_wd4": {"Conv2d": 54},
    "shufflenetv2_wd2": {"Conv2d": 56, "Linear": 1},
    "efficientnet_b0": {"Conv2d": 81, "Linear": 1},
    "bert": {"Embedding": 3, "LayerNorm": 5, "Linear": 14},
    "recurrent": {"Embedding": 1, "LSTM": 2, "GRU": 1, "Linear": 1},
    "minilm": {"Embedding": 2, "LayerNorm": 13, "Linear": 36},
    "gpt": {"Embedding": 1, "LayerNorm": 5, "Linear": 9},
}
# the exporter that traces cannot export GPT-2 (aten::diff); once is enough for what is published
CASES = [
    (name, dynamo)
    for name in LAYERS
    for dynamo in (True, False)
    if (name, dynamo) not in (("gpt", False), ("minilm", False))
]
SLOW = {"mobilenetv2_wd4", "shufflenetv2_wd2", "efficientnet_b0", "minilm"}  # to export by torch.export
EXPORTED_AGAIN = {(name, name in ("gpt", "minilm")) for name in LAYERS} | {("recurrent", True)}


def parameter(name: str, dynamo: bool):
    marks = [pytest.mark.slow] if dynamo and name in SLOW else []
    return pytest.param(name, dynamo, marks=marks, id=f"{name}-{'dynamo' if dynamo else 'traced'}")


@pytest.mark.parametrize(("name", "dynamo"), [parameter(*case) for case in CASES])
def test_a_network_computes_the_same_and_trains(name, dynamo, tmp_path):
    proto, inputs = exported(name, dynamo, tmp_path)
    before = proto.SerializeToString(deterministic=True)
    module = to_module(proto)

    assert proto.SerializeToString(deterministic=True) == before
    assert not any(part.training for part in module.modules())
    wanted = in_onnxruntime(proto, inputs)
    for got, expected in zip(run(module, inputs), wanted, strict=True):
        assert decibels(expected, got) > 90

    kinds = Counter(type(part).__name__ for part in module.modules())
    layers = dict(LAYERS[name])
    if (name, dynamo) == ("bert", True):  # the one row of token types that is read was folded
        layers["Embedding"] = 2
    assert {kind: kinds[kind] for kind in layers} == layers

    if (name, dynamo) in EXPORTED_AGAIN:
        again, expected = exported_again(module, inputs)
        for got, value in zip(again, expected, strict=True):
            assert value.shape[0] == inputs[0].shape[0] + 1
            assert decibels(value, got) > 90

    floats = sum(_trained(proto.graph, tensor) for tensor in proto.graph.initializer if tensor.data_type == 1)
    assert 0 <= floats - sum(weight.numel() for weight in module.parameters()) < 10  # lone numbers are none
    assert unmoved(module, inputs) == set()


def _trained(graph, tensor) -> int:
    """How many numbers it is: a number repeated, which exporters store once, is a weight of each node that reads it."""
    uses = sum(tensor.name in node.input for node in graph.node)
    size = int(torch.Size(tensor.dims).numel())
    repeated = size > 1 and np.ptp(onnx.numpy_helper.to_array(tensor)) == 0
    return size * (uses if repeated else 1)
