"""Products of matrices whose weights are computed; the others are layers (`layers.py`)."""

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator


@operator("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the attribute's name
    transB: int = 0,  # noqa: N803
) -> Tensor:
    found = torch.matmul(a.T if transA else a, b.T if transB else b)
    if alpha != 1:
        found = found * alpha if found.is_floating_point() else (found * alpha).to(a.dtype)
    if c is None:
        return found
    return found + (c if beta == 1 else (c * beta).to(c.dtype))


@operator("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *operands)


@operator("Det")
def determinant(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.det(x)
    return found
