"""Normalizations whose weights are computed; the others are layers (`layers.py`)."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints


@operator("BatchNormalization", several=True)
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> tuple[Tensor, ...]:
    """With `training_mode` by the batch's own statistics, and the running ones are outputs."""
    if not training_mode:
        return (nnf.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon),)
    dims = [dim for dim in range(x.ndim) if dim != 1]
    found = nnf.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
    now = x.mean(dims), x.var(dims, correction=0)
    return (
        found,
        *(old * momentum + new * (1 - momentum) for old, new in zip((mean, variance), now, strict=True)),
    )


@operator("LayerNormalization", several=True)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(axis % x.ndim, x.ndim))
    wide = x.float() if stash_type == 1 and x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(dims, keepdim=True)
    spread = torch.rsqrt((wide - mean).square().mean(dims, keepdim=True) + epsilon)
    found = ((wide - mean) * spread).to(x.dtype) * scale
    return (found if bias is None else found + bias), mean, spread


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    dims = list(range(axis % x.ndim, x.ndim))
    wide = x.float() if stash_type == 1 and x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * torch.rsqrt(wide.square().mean(dims, keepdim=True) + epsilon)).to(x.dtype) * scale


@operator("GroupNormalization")
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int,
) -> Tensor:
    """Until opset 20 a weight is a group's, since then a channel's."""
    if opset < 21:
        each = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return nnf.group_norm(x, num_groups, scale, bias, epsilon)


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return nnf.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


@operator("LRN")
def local_response(
    x: Tensor, *, size: int, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Over neighbouring channels; of an even size the odd neighbour is a later one."""
    before = (size - 1) // 2
    around = [0] * (2 * (x.ndim - 2)) + [before, size - 1 - before]
    squares = nnf.pad(x.square(), around)
    near = sum(squares.narrow(1, place, x.shape[1]) for place in range(size))
    return x / (bias + alpha / size * near) ** beta


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def mean_variance(x: Tensor, *, axes: Ints = (0, 2, 3)) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    spread = (x.square().mean(axes, keepdim=True) - mean.square()).sqrt()
    return (x - mean) / (spread + 1e-9)
