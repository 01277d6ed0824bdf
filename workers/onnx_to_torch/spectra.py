"""Fourier transforms and the windows before them. Complex numbers are pairs in the last dimension; a lone real part may be one."""

import math

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.types import TYPES
from workers.onnx_to_torch.values import Ints


def _complex(x: Tensor) -> Tensor:
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


@operator("DFT")
def dft(
    x: Tensor,
    length: Ints | None = None,
    over: Ints | None = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
    opset: int,
) -> Tensor:
    """`onesided` leaves the half out that a real signal's spectrum repeats; inverse, it makes the real signal of that half."""
    named = over[0] if over else axis if axis is not None else 1 if opset < 20 else -2
    dim = named % x.ndim
    count = length[0] if length else None
    values = _complex(x)
    if inverse and onesided:
        signal: Tensor = torch.fft.irfft(values, count, dim)
        return signal.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(values, count, dim))
    found = torch.fft.fft(values, count, dim)
    if onesided:
        found = found.narrow(dim, 0, found.shape[dim] // 2 + 1)
    return torch.view_as_real(found)


@operator("STFT")
def stft(
    x: Tensor, step: Ints, window: Tensor | None = None, length: Ints | None = None, *, onesided: int = 1
) -> Tensor:
    """(batch, samples, 1 or 2) to (batch, frames, bins, 2): whole frames alone, nothing is padded."""
    size = length[0] if length else window.shape[0] if window is not None else x.shape[1]
    frames = _complex(x).unfold(1, size, step[0])
    if window is not None:
        frames = frames * window
    found = torch.fft.fft(frames, dim=-1)
    return torch.view_as_real(found[..., : size // 2 + 1] if onesided else found)


def _window(size: Ints, parts: tuple[float, ...], kind: int, periodic: int, like: Tensor) -> Tensor:
    """A sum of cosines; `periodic`: of a period that is the size, else one less."""
    steps = torch.arange(size[0], dtype=torch.float64, device=like.device)
    angle = steps * (2 * math.pi / (size[0] if periodic else size[0] - 1))
    found = sum(part * torch.cos(angle * place) for place, part in enumerate(parts))
    return torch.as_tensor(found, device=like.device).to(TYPES[kind])


@operator("HannWindow")
def hann_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1, like: Tensor) -> Tensor:
    return _window(size, (0.5, -0.5), output_datatype, periodic, like)


@operator("HammingWindow")
def hamming_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1, like: Tensor) -> Tensor:
    return _window(size, (25 / 46, -21 / 46), output_datatype, periodic, like)


@operator("BlackmanWindow")
def blackman_window(size: Ints, *, output_datatype: int = 1, periodic: int = 1, like: Tensor) -> Tensor:
    return _window(size, (0.42, -0.5, 0.08), output_datatype, periodic, like)
