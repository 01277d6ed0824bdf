"""Activations."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator


@operator("Relu")
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return nnf.leaky_relu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return nnf.threshold(x, alpha, 0.0)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """The slope broadcasts from the last dimension on."""
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return nnf.elu(x, alpha)


@operator("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * nnf.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return nnf.celu(x, alpha)


@operator("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(x * alpha + beta, 0, 1)


@operator("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    return nnf.hardswish(x)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@operator("Mish")
def mish(x: Tensor) -> Tensor:
    return nnf.mish(x)


@operator("Gelu", "com.microsoft:Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return nnf.gelu(x, approximate=approximate)


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    return nnf.softplus(x)


@operator("Softsign")
def softsign(x: Tensor) -> Tensor:
    return nnf.softsign(x)


@operator("Tanh")
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    outer = torch.where(x > lambd, x - bias, torch.zeros_like(x))
    return torch.where(x < -lambd, x + bias, outer).to(x.dtype)


def _rows(x: Tensor, axis: int | None, opset: int) -> tuple[Tensor, int]:
    """What a softmax goes over. Before opset 13 it is all dimensions from `axis` on, as one."""
    if opset >= 13:
        return x, -1 if axis is None else axis
    axis = 1 if axis is None else axis
    return (x, -1) if axis % x.ndim == x.ndim - 1 else (x.flatten(axis % x.ndim), -1)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    rows, over = _rows(x, axis, opset)
    return torch.softmax(rows, over).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    rows, over = _rows(x, axis, opset)
    return torch.log_softmax(rows, over).reshape(x.shape)


@operator("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    rows, over = _rows(x, axis, opset)
    first = torch.argmax(rows, over, keepdim=True)
    return torch.zeros_like(rows).scatter(over, first, 1).reshape(x.shape)


@operator("Dropout", several=True, folds=False)
def dropout(
    x: Tensor,
    share: Tensor | None = None,
    training_mode: Tensor | None = None,
    *,
    seed: int | None = None,
    ratio: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """What reaches this is no layer; as ONNX says, nothing is dropped unless `training_mode`."""
    if training_mode is None or not bool(training_mode):
        return x, torch.ones_like(x, dtype=torch.bool)
    dropped = ratio if share is None else float(share)
    kept = torch.rand_like(x) >= dropped
    return x * kept / (1 - dropped), kept
