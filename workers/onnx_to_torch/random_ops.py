"""Random numbers, new ones at each run: by PyTorch's generator, so `torch.manual_seed` holds, not the seeds in the model."""

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.types import TYPES
from workers.onnx_to_torch.values import Ints


@operator("RandomNormal", folds=False)
def random_normal(
    *,
    shape: Ints,
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    like: Tensor,
) -> Tensor:
    return torch.randn(shape, dtype=TYPES[dtype], device=like.device) * scale + mean


@operator("RandomNormalLike", folds=False)
def random_normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    return torch.randn_like(x, dtype=TYPES[dtype] if dtype else x.dtype) * scale + mean


@operator("RandomUniform", folds=False)
def random_uniform(
    *,
    shape: Ints,
    dtype: int = 1,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    like: Tensor,
) -> Tensor:
    return torch.rand(shape, dtype=TYPES[dtype], device=like.device) * (high - low) + low


@operator("RandomUniformLike", folds=False)
def random_uniform_like(
    x: Tensor, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> Tensor:
    return torch.rand_like(x, dtype=TYPES[dtype] if dtype else x.dtype) * (high - low) + low


@operator("Bernoulli", folds=False)
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    return torch.bernoulli(x).to(TYPES[dtype] if dtype else x.dtype)
