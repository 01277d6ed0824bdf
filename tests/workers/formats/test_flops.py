"""FLOPs against numbers worked out by hand, and against PyTorch's own counter."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from tests.workers.formats.uploads import graph_model, inspected, tensor, value
from workers.formats.flops import count_flops

MICROSOFT = "com.microsoft"


def one(
    kind: str, inputs: dict[str, Sequence[Any]], output: Sequence[Any], weights: dict[str, Sequence[int]] | None = None,
    domain: str = "", opset: int = 18, order: Sequence[str] | None = None, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node."""
    held = weights or {}
    node = helper.make_node(kind, list(order or [*inputs, *held]), ["y"], domain=domain, **attributes)
    return graph_model(
        [node],
        [value(name, shape) for name, shape in inputs.items()],
        [value("y", output)],
        [tensor(name, np.zeros(shape)) for name, shape in held.items()],
        domains=[domain] if domain else [],
        opset=opset,
    )


@pytest.mark.parametrize(
    ("model", "flops"),
    [
        # 4·4 outputs of 8 channels, each a product over 3 channels of 3×3
        (one("Conv", {"x": [1, 3, 6, 6]}, [1, 8, 4, 4], {"w": [8, 3, 3, 3]}), 2 * 8 * 16 * 27),
        # depthwise: each output over 1 channel
        (one("Conv", {"x": [1, 4, 6, 6]}, [1, 4, 4, 4], {"w": [4, 1, 3, 3]}, group=4), 2 * 4 * 16 * 9),
        (one("Conv", {"x": ["n", 3, 6]}, ["n", 8, 4], {"w": [8, 3, 3]}), 2 * 8 * 4 * 9),
        # transposed: each of 3·5·5 inputs is spread over 8 channels of 2×2
        (one("ConvTranspose", {"x": [1, 3, 5, 5]}, [1, 8, 6, 6], {"w": [3, 8, 2, 2]}), 2 * 75 * 32),
        (one("Gemm", {"x": [2, 5]}, [2, 7], {"w": [5, 7]}), 2 * 2 * 5 * 7),
        (one("Gemm", {"x": [5, 2]}, [2, 7], {"w": [7, 5]}, transA=1, transB=1), 2 * 2 * 5 * 7),
        (one("MatMul", {"a": [3, 2, 5], "b": [3, 5, 7]}, [3, 2, 7]), 2 * 3 * 2 * 5 * 7),
        (one("MatMul", {"a": [5], "b": [5]}, []), 2 * 5),
        (one("Einsum", {"a": [2, 3, 5], "b": [2, 5, 7]}, [2, 3, 7], equation="bij,bjk->bik"), 2 * 2 * 3 * 5 * 7),
        (one("Einsum", {"a": [4, 2, 3, 5], "b": [2, 5, 7]}, [4, 2, 3, 7], equation="...ij, ...jk -> ...ik"), 2 * 4 * 2 * 3 * 5 * 7),
        (one("Einsum", {"a": [3, 5], "b": [3, 5]}, [3, 5], equation="ij,ij->ij"), 0),
        (one("Einsum", {"a": [3, 5]}, [5, 3], equation="ij->ji"), 0),
        # one step of an LSTM: four gates over input (10) and state (20)
        (
            one("LSTM", {"x": [7, 2, 10]}, [7, 1, 2, 20], {"w": [1, 80, 10], "r": [1, 80, 20]}, hidden_size=20),
            2 * 7 * 2 * 80 * 30,
        ),
        (
            one(
                "GRU", {"x": [7, 2, 10]}, [7, 2, 2, 20], {"w": [2, 60, 10], "r": [2, 60, 20]}, hidden_size=20,
                direction="bidirectional",
            ),
            2 * 7 * 2 * 2 * 60 * 30,
        ),
        # scores and weighted sum: 4 heads of 8 together 32 wide
        (one("MultiHeadAttention", {key: [2, 6, 32] for key in "qkv"}, [2, 6, 32], domain=MICROSOFT, num_heads=4), 4 * 2 * 6 * 6 * 32),
        (
            one("Attention", {"x": [2, 6, 16]}, [2, 6, 32], {"w": [16, 96], "b": [96]}, domain=MICROSOFT, num_heads=4),
            2 * 2 * 6 * 16 * 96 + 4 * 2 * 6 * 6 * 32,
        ),
        (one("Attention", {key: [2, 4, 6, 8] for key in "qkv"}, [2, 4, 6, 8], opset=23), 4 * 2 * 4 * 6 * 6 * 8),
        (one("MatMulNBits", {"x": ["n", 5, 64]}, ["n", 5, 48], {"w": [48, 2, 16], "s": [96]}, domain=MICROSOFT, K=64, N=48, bits=4, block_size=32), 2 * 5 * 64 * 48),
        (one("Relu", {"x": [1000]}, [1000]), 0),
    ],
)  # fmt: skip
def test_each_operator_counts_what_it_computes(model: onnx.ModelProto, flops: int) -> None:
    assert count_flops(model) == (flops, [])


def test_quantized_operators_count_like_the_others() -> None:
    scale, zero = tensor("s", 1.0), tensor("z", 0, np.uint8)
    weight = tensor("w", np.zeros((8, 3, 3, 3)), np.uint8)
    model = graph_model(
        [helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"])],
        [value("x", [1, 3, 6, 6], TensorProto.UINT8)],
        [value("y", [1, 8, 4, 4], TensorProto.UINT8)],
        [scale, zero, weight],
    )
    assert count_flops(model) == (2 * 8 * 16 * 27, [])
    model = graph_model(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        [value("x", [2, 5], TensorProto.UINT8)],
        [value("y", [2, 7], TensorProto.INT32)],
        [tensor("w", np.zeros((5, 7)), np.int8)],
    )
    assert count_flops(model) == (2 * 2 * 5 * 7, [])


def test_a_free_dimension_is_one_all_the_way_through() -> None:
    """(batch, 8, 4) reshaped to (-1, 4) has 8 rows for a batch of one."""
    model = graph_model(
        [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        [value("x", ["batch", 8, 4])],
        [value("y", [None, 3])],
        [tensor("shape", [-1, 4], np.int64), tensor("w", np.zeros((4, 3)))],
    )
    assert count_flops(model) == (2 * 8 * 4 * 3, [])


def test_a_subgraph_sees_the_outer_shapes_and_counts_once() -> None:
    branches = [
        helper.make_graph([helper.make_node("MatMul", ["h", "w"], [f"o{number}"])], "b", [], [value(f"o{number}", [2, 3])])
        for number in range(2)
    ]  # fmt: skip
    model = graph_model(
        [
            helper.make_node("Relu", ["x"], ["h"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        ],
        [value("x", [2, 4]), value("flag", [], TensorProto.BOOL)],
        [value("y", [2, 3])],
        [tensor("w", np.zeros((4, 3)))],
    )
    assert count_flops(model) == (2 * (2 * 2 * 4 * 3), [])


def test_nodes_of_unknown_shape_are_named() -> None:
    model = graph_model(
        [
            helper.make_node("Magic", ["x"], ["h"], domain="my.own"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="lost"),
        ],
        [value("x", [2])],
        [value("y", [2, 3])],
        [tensor("w", np.zeros((4, 3)))],
        domains=["my.own"],
    )
    assert count_flops(model) == (0, ["lost"])


class Network(torch.nn.Module):
    """Convolutions of each kind and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 16, 3, stride=2, groups=16),
            torch.nn.Conv2d(16, 32, 1),
            torch.nn.ConvTranspose2d(32, 8, 2, stride=2),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
        self.head = torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("batch", [None, 4])
def test_a_torch_network_counts_as_torch_counts(batch: int | None, tmp_path: Path) -> None:
    net = Network().eval()
    example = torch.randn(batch or 2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        shapes = None if batch else ({0: torch.export.Dim("batch")},)
        torch.onnx.export(net, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False).save(
            tmp_path / "m"
        )
    with FlopCounterMode(display=False) as counter:
        net(example[: batch or 1])
    assert inspected(tmp_path / "m")["facts"]["flops"] == counter.get_total_flops()
