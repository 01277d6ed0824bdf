"""Attention and rotary embeddings of opset 23 and later."""

import math
from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.types import TYPES


@operator("Attention", several=True)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(batch, heads, time, size), or (batch, time, heads · size). Returns the output, present keys and values, and the scores.

    Formulas: https://onnx.ai/onnx/operators/onnx__Attention.html. A query that may see nothing gets zeros.
    """
    flat = q.ndim == 3
    if flat:
        assert q_num_heads
        assert kv_num_heads
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    before = 0
    if past_key is not None and past_value is not None:
        k, v, before = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2), past_key.shape[2]
    keys, values = k, v
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
    scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
    shown = scores
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
        shown = scores if qk_matmul_output_mode == 1 else shown
    hidden = _hidden(q, k, lengths, before, is_causal, left_window_size, right_window_size)
    bias = _bias(mask, hidden, scores)
    if bias is not None:
        scores = scores + bias
    shown = scores if qk_matmul_output_mode == 2 else shown
    kind = TYPES[softmax_precision] if softmax_precision else q.dtype
    shares = torch.softmax(scores.to(kind), -1).to(q.dtype)
    if bias is not None:
        nothing = torch.isneginf(bias.amax(-1, keepdim=True))
        shares = torch.where(nothing, torch.zeros_like(shares), shares)
    shown = shares if qk_matmul_output_mode == 3 else shown
    found = torch.matmul(shares, v)
    if flat:
        found = found.transpose(1, 2).flatten(2)
    return found, keys, values, shown


def _heads(x: Tensor, count: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _hidden(
    q: Tensor, k: Tensor, lengths: Tensor | None, before: Any, causal: int, left: int, right: int
) -> Tensor | None:
    """Which keys a query may not see: later ones, those out of the window, those beyond a sample's length."""
    if not causal and left < 0 and right < 0 and lengths is None:
        return None
    keys = torch.arange(k.shape[2], device=q.device)
    places = torch.arange(q.shape[2], device=q.device)[:, None] + before
    hidden = torch.zeros(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    if lengths is not None:
        ends = lengths.reshape(-1, 1, 1, 1)
        hidden = hidden | (keys >= ends)
        places = places + (ends - q.shape[2] if not isinstance(before, int) or before == 0 else 0)
    if causal:
        hidden = hidden | (keys > places)
    if left >= 0:
        hidden = hidden | (places - keys > left)
    return hidden | (keys - places > right) if right >= 0 else hidden


def _bias(mask: Tensor | None, hidden: Tensor | None, scores: Tensor) -> Tensor | None:
    bias = None
    if mask is not None:
        bias = mask
        if mask.dtype == torch.bool:
            bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
        missing = scores.shape[-1] - mask.shape[-1]
        if not (isinstance(missing, int) and missing == 0):
            bias = torch.nn.functional.pad(bias, (0, missing), value=-math.inf)
    if hidden is None:
        return bias
    shut = torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, -math.inf)
    return shut if bias is None else shut + bias


@operator("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Turns pairs of features by angles of their place. (batch, heads, time, size), or (batch, time, heads · size)."""
    rows = x.transpose(1, 2) if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], num_heads, -1)
    size = rotary_embedding_dim or rows.shape[-1]
    turned, rest = rows[..., :size], rows[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        turned = torch.stack([real, imaginary], -1).reshape(turned.shape)
    else:
        turned = torch.cat([real, imaginary], -1)
    found = torch.cat([turned, rest], -1)
    return found.transpose(1, 2) if x.ndim == 4 else found.reshape(x.shape)


@operator("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return gate * torch.sigmoid(alpha * gate) * x
