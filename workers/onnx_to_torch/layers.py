"""Operators that are layers where their weights are constants: convolutions, linear layers, normalizations, embeddings.

Each builder returns None where the layer would not do what the operator does; then its function does it.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.onnx_to_torch.build import Builder
from workers.onnx_to_torch.convolution import cropped, padded, window
from workers.onnx_to_torch.indexing import from_the_start
from workers.onnx_to_torch.model import Node
from workers.onnx_to_torch.names import layer_name
from workers.onnx_to_torch.registry import layer

Made = list[fx.Node] | None
_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


class PRelu(nn.PReLU):
    """One slope a channel, in whatever shape the model has it, broadcast from the last dimension on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, self.weight * x, x)


def _window(node: Node, kernel: tuple[int, ...]) -> Any:
    told = {key: node.attributes.get(key) for key in ("strides", "dilations", "pads")}
    return window(kernel, **told, auto_pad=node.attributes.get("auto_pad", "NOTSET"))


def pad_input(x: Tensor, *window_of: Any) -> Tensor:
    """Zeros around what a convolution reads; `window_of` are the fields of a `Window`."""
    return padded(x, window(*window_of))


def crop_output(found: Tensor, x: Tensor, wanted: tuple[int, ...] | None, *window_of: Any) -> Tensor:
    """What a transposed convolution gives, without its pads."""
    return cropped(found, x, window(*window_of), wanted)


@layer("Conv")
def conv(node: Node, build: Builder) -> Made:
    weight, bias, fits = _weight_and_bias(node, build)
    if not fits or weight.ndim - 2 not in _CONVOLUTIONS:
        return None
    over = _window(node, tuple(weight.shape[2:]))
    group = node.attributes.get("group", 1)
    x = build.value(node.inputs[0])
    even = over.even
    if even is None:
        x = build.call(pad_input, x, over.kernel, over.strides, over.dilations, over.pads, over.auto_pad)
        even = 0
    made = _CONVOLUTIONS[weight.ndim - 2](
        weight.shape[1] * group, weight.shape[0], over.kernel, over.strides, even, over.dilations, group,
        bias=bias is not None, device="meta",
    )  # fmt: skip
    return [_weighted(node, build, made, weight, bias, x)]


@layer("ConvTranspose")
def conv_transpose(node: Node, build: Builder) -> Made:
    weight, bias, fits = _weight_and_bias(node, build)
    if not fits or weight.ndim - 2 not in _TRANSPOSED:
        return None
    over = _window(node, tuple(weight.shape[2:]))
    wanted = node.attributes.get("output_shape")
    cuts = over.even is None or wanted is not None
    group = node.attributes.get("group", 1)
    made = _TRANSPOSED[weight.ndim - 2](
        weight.shape[0], weight.shape[1] * group, over.kernel, over.strides, 0 if cuts else over.even,
        node.attributes.get("output_padding", 0), group, bias=bias is not None, dilation=over.dilations,
        device="meta",
    )  # fmt: skip
    x = build.value(node.inputs[0])
    found = _weighted(node, build, made, weight, bias, x)
    if not cuts:
        return [found]
    return [
        build.call(
            crop_output, found, x, wanted, over.kernel, over.strides, over.dilations, over.pads, over.auto_pad
        )
    ]


def _weight_and_bias(node: Node, build: Builder) -> tuple[Any, Any, bool]:
    """Both weights of a node, and whether they are what a layer takes: constant, the bias one a channel."""
    weight = build.parameter(node.input(1))
    bias = build.parameter(node.input(2)) if node.input(2) else None
    fits = weight is not None and (not node.input(2) or (bias is not None and bias.ndim == 1))
    return weight, bias, fits


def _weighted(node: Node, build: Builder, made: nn.Module, weight: Any, bias: Any, x: fx.Node) -> fx.Node:
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return build.layer(layer_name(node, node.inputs[1]), made, x)


@layer("Gemm")
def gemm(node: Node, build: Builder) -> Made:
    settings = node.attributes
    if settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1 or settings.get("transA", 0):
        return None
    weight = _linear_weight(node.inputs[1], build, bool(settings.get("transB", 0)))
    if weight is None or build.constant(node.inputs[0]) is not None:
        return None
    bias = None
    if node.input(2):
        bias = build.parameter(node.input(2))
        if bias is None or bias.shape != (weight.shape[0],):
            return None
    return [_linear(node, node.inputs[1], build, weight, bias)]


@layer("MatMul")
def matmul(node: Node, build: Builder) -> Made:
    """With the addition that follows, where it adds a bias."""
    if build.constant(node.inputs[0]) is not None:
        return None
    name, turned = node.inputs[1], False
    producer = build.producer(name)
    swaps = (
        producer is not None
        and producer.kind == "Transpose"
        and producer.attributes.get("perm", (1, 0)) == (1, 0)
    )
    if swaps and producer is not None and build.constant(name) is None:
        name, turned = producer.inputs[0], True
    weight = _linear_weight(name, build, turned)
    if weight is None:
        return None
    add = build.only_reader(node.outputs[0])
    bias = _bias_of(add, node.outputs[0], build, weight.shape[0]) if add is not None else None
    made = _linear(node, name, build, weight, bias)
    if bias is not None and add is not None:
        build.finish(add, made)
    return [made]


def _linear_weight(name: str, build: Builder, turned: bool) -> nn.Parameter | None:
    """A matrix as `nn.Linear` has it: (outputs, inputs). `turned`: it is so already. Turning it asks that it is read here alone."""
    constant = build.constant(name)
    if constant is None or constant.tensor.ndim != 2:
        return None
    if turned:
        return build.parameter(name)
    return build.parameter(name, "turned", _turned) if build.alone(name) else None


def _turned(weight: Tensor) -> Tensor:
    return weight.T


def _bias_of(add: Node, product: str, build: Builder, outputs: int) -> nn.Parameter | None:
    if add.kind != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] == product else add.inputs[0]
    constant = build.constant(other)
    if constant is None or constant.tensor.shape != (outputs,):
        return None
    return build.parameter(other)


def _linear(node: Node, name: str, build: Builder, weight: nn.Parameter, bias: Any) -> fx.Node:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return build.layer(layer_name(node, name), made, build.value(node.inputs[0]))


@layer("Gather")
def embedding(node: Node, build: Builder) -> Made:
    """Rows of a table of weights, by indices that are data."""
    constant = build.constant(node.inputs[0])
    if constant is None or not constant.weight or constant.tensor.ndim != 2 or node.attributes.get("axis", 0):
        return None
    if build.constant(node.inputs[1]) is not None:
        return None
    weight = build.parameter(node.inputs[0])
    assert weight is not None
    rows, size = weight.shape
    made = nn.Embedding(rows, size, device="meta")
    made.weight = weight
    indices = build.call(index_tensor, build.value(node.inputs[1]), weight.shape[0])
    return [build.layer(layer_name(node, node.inputs[0]), made, indices)]


def index_tensor(indices: Any, rows: int) -> Tensor:
    """Indices of an embedding, none of them negative."""
    return from_the_start(indices if isinstance(indices, Tensor) else indices.tensor(), rows)


@layer("BatchNormalization")
def batch_norm(node: Node, build: Builder) -> Made:
    """Weights are shared where the model shares them; running statistics never are."""
    found = build.weights(*node.inputs[1:3])
    statistics = [build.constant(name) for name in node.inputs[3:5]]
    rank = build.rank(node.inputs[0])
    if found is None or None in statistics or rank not in _BATCH_NORMS or node.read_outputs > 1:
        return None
    if node.attributes.get("training_mode", 0) or node.attributes.get("spatial", 1) != 1:
        return None
    made = _BATCH_NORMS[rank](
        found[0].shape[0], node.attributes.get("epsilon", 1e-5), 1 - node.attributes.get("momentum", 0.9)
    )
    made.weight, made.bias = found
    made.running_mean, made.running_var = (one.tensor.clone() for one in statistics if one)
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("InstanceNormalization")
def instance_norm(node: Node, build: Builder) -> Made:
    found = build.weights(*node.inputs[1:3])
    rank = build.rank(node.inputs[0])
    if found is None or rank not in _INSTANCE_NORMS:
        return None
    made = _INSTANCE_NORMS[rank](found[0].shape[0], node.attributes.get("epsilon", 1e-5), affine=True)
    made.weight, made.bias = found
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("GroupNormalization")
def group_norm(node: Node, build: Builder) -> Made:
    """From opset 21 on; before, a weight is a group's."""
    found = build.weights(*node.inputs[1:3])
    if found is None or node.opset < 21:
        return None
    made = nn.GroupNorm(
        node.attributes["num_groups"], found[0].shape[0], node.attributes.get("epsilon", 1e-5)
    )
    made.weight, made.bias = found
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("LayerNormalization")
def layer_norm(node: Node, build: Builder) -> Made:
    names = [name for name in node.inputs[1:3] if name]
    found = build.weights(*names)
    if found is None or node.read_outputs > 1:
        return None
    shape = found[0].shape
    axis, rank = node.attributes.get("axis", -1), build.rank(node.inputs[0])
    dims = -axis if axis < 0 else rank - axis if rank is not None else None
    if dims != len(shape) or any(weight.shape != shape for weight in found):
        return None
    made = nn.LayerNorm(shape, node.attributes.get("epsilon", 1e-5), bias=len(found) > 1)
    made.weight = found[0]
    if len(found) > 1:
        made.bias = found[1]
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("RMSNormalization")
def rms_norm(node: Node, build: Builder) -> Made:
    found = build.weights(node.inputs[1])
    axis, rank = node.attributes.get("axis", -1), build.rank(node.inputs[0])
    dims = -axis if axis < 0 else rank - axis if rank is not None else None
    if found is None or dims != found[0].ndim or found[0].dtype != torch.float32:
        return None
    made = nn.RMSNorm(found[0].shape, node.attributes.get("epsilon", 1e-5))
    made.weight = found[0]
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("PRelu")
def prelu(node: Node, build: Builder) -> Made:
    slope = build.parameter(node.inputs[1])
    if slope is None:
        return None
    made = PRelu(max(slope.numel(), 1), device="meta")
    made.weight = slope
    return [build.layer(layer_name(node, node.inputs[1]), made, build.value(node.inputs[0]))]


@layer("Dropout")
def dropout(node: Node, build: Builder) -> Made:
    """Its mode is the module's: nothing is dropped until `train()`."""
    if node.read_outputs > 1 or (node.input(2) and build.constant(node.input(2)) is None):
        return None
    ratio = build.plain(node.input(1)) if node.input(1) else (node.attributes.get("ratio", 0.5),)
    if ratio is None or node.attributes.get("seed") is not None:
        return None
    return [build.layer(node.name, nn.Dropout(float(ratio[0])), build.value(node.inputs[0]))]
