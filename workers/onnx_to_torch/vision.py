"""Sampling, boxes and patches."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Floats, Ints

_SAMPLING = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "nearest": "nearest",
    "bicubic": "bicubic",
    "cubic": "bicubic",
}


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    return nnf.grid_sample(x, grid, _SAMPLING[mode], padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    return nnf.affine_grid(theta, list(size), bool(align_corners))


@operator("NonMaxSuppression")
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Ints | None = None,
    overlap: Floats | None = None,
    least: Floats | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """(batch, class, box) of the boxes that no better one of their class covers by more than `overlap`."""
    count = most[0] if most else 0
    corners = _corners(boxes, center_point_box)
    found = []
    for batch in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            kept = _kept(
                corners[batch],
                scores[batch, kind],
                count,
                overlap[0] if overlap else 0.0,
                least[0] if least else None,
            )
            found += [(batch, kind, box) for box in kept]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, by_centre: int) -> Tensor:
    first, second = boxes[..., :2], boxes[..., 2:]
    if by_centre:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _kept(boxes: Tensor, scores: Tensor, count: int, overlap: float, least: float | None) -> list[int]:
    kept: list[int] = []
    for place in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if len(kept) >= count or (least is not None and not float(scores[place]) > least):
            break
        if all(_shared(boxes[place], boxes[other]) <= overlap for other in kept):
            kept.append(place)
    return kept


def _shared(a: Tensor, b: Tensor) -> float:
    """The intersection over the union."""
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    both = sides.prod()
    whole = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both
    return float(both / whole) if float(whole) > 0 else 0.0


@operator("Col2Im")
def col2im(
    x: Tensor,
    image: Ints,
    block: Ints,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Columns summed into images, of any number of dimensions."""
    rank = len(image)
    steps, gaps = strides or (1,) * rank, dilations or (1,) * rank
    around = pads or (0,) * (2 * rank)
    wide = [size + around[i] + around[i + rank] for i, size in enumerate(image)]
    counts = [(wide[i] - gaps[i] * (block[i] - 1) - 1) // steps[i] + 1 for i in range(rank)]
    places = torch.zeros((), dtype=torch.int64, device=x.device)
    for i in range(rank):
        inner = torch.arange(block[i], device=x.device) * gaps[i]
        outer = torch.arange(counts[i], device=x.device) * steps[i]
        shape = [1] * (2 * rank)
        shape[i] = block[i]
        first = inner.reshape(shape)
        shape = [1] * (2 * rank)
        shape[rank + i] = counts[i]
        places = places * wide[i] + first + outer.reshape(shape)
    parts = x.reshape(x.shape[0], -1, places.numel())
    size = 1
    for length in wide:
        size *= length
    flat = x.new_zeros(x.shape[0], parts.shape[1], size)
    found = flat.index_add(2, places.reshape(-1), parts).reshape(x.shape[0], -1, *wide)
    for i in range(rank):
        found = found.narrow(2 + i, around[i], image[i])
    return found
