"""What bounds a layer: the least time that the device's peaks allow it, beside the time that it took.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures", CACM
52(4), 2009. A layer takes at least as long as its operations at the peak rate of its precision, and as long as its compulsory traffic at
the bandwidth of the memory that it comes from; the two may overlap, so the longer counts. Beyond the paper, traffic that fits into
a cache is held against the cache's rate: values were written a moment before; weights come from memory where all weights
together do not fit.
"""

from collections.abc import Sequence

from app.profiles.schemas import Bound, Layer, Peaks
from workers.profiling.costs import Cost

EXPLAINS = 0.5  # the share of a layer's time from which on its floor explains it
WORTH_MOST = 10
ABOVE_PEAK = 1.25  # times the peak, from which on it was measured too low, or fewer operations are computed than counted
WORTH_A_WORD = 0.05  # of the time, that such layers take together


def explained(layers: Sequence[Layer], costs: Sequence[Cost], peaks: Peaks) -> list[Layer]:
    """The layers with their floors and bounds; those whose operations or bytes are not known have neither."""
    streamed = sum(cost.weight_bytes or 0 for cost in costs) > (peaks.cached_bytes or 0)
    found = []
    for layer, cost in zip(layers, costs, strict=True):
        floors = floors_ms(cost, layer.precision, peaks, streamed=streamed)
        update = {"floor_ms": max(floors), "bound": bound_of(layer.mean_ms, *floors)} if floors else {}
        found.append(layer.model_copy(update=update))
    return found


def floors_ms(
    cost: Cost, precision: str | None, peaks: Peaks, *, streamed: bool
) -> tuple[float, float] | None:
    """The least times to compute and to move what a layer does; None where one is not known.

    `streamed`: its weights come from memory, not from a cache.
    """
    rate = flops_rate(peaks, precision)
    if cost.flops is None or cost.value_bytes is None or cost.weight_bytes is None or rate is None:
        return None
    values = cost.value_bytes / rate_of(cost.value_bytes, peaks)
    weights = cost.weight_bytes / (peaks.bytes_per_s if streamed else rate_of(cost.weight_bytes, peaks))
    return 1000 * cost.flops / rate, 1000 * (values + weights)


def flops_rate(peaks: Peaks, precision: str | None) -> float | None:
    """The peak of a precision; one that is no faster than fp32 here is computed in fp32. None: fp32 is not known either."""
    known = peaks.flops_per_s
    return known.get(precision or "fp32", known.get("fp32"))


def rate_of(size: int, peaks: Peaks) -> float:
    """Bytes a second for values of this size."""
    cached = peaks.cached_bytes is not None and size <= peaks.cached_bytes
    return (cached and peaks.cached_bytes_per_s) or peaks.bytes_per_s


def bound_of(mean_ms: float, compute_ms: float, memory_ms: float) -> Bound:
    """What holds a layer that took `mean_ms`."""
    if max(compute_ms, memory_ms) < EXPLAINS * mean_ms:
        return "overhead"
    return "compute" if compute_ms >= memory_ms else "memory"


def worth_most(layers: Sequence[Layer], count: int = WORTH_MOST) -> list[Layer]:
    """The layers that lie furthest above their floors, in milliseconds: where there is most to gain."""
    known = [layer for layer in layers if layer.floor_ms is not None]
    return sorted(known, key=lambda layer: (layer.floor_ms or 0.0) - layer.mean_ms)[:count]


def above_peak(layers: Sequence[Layer]) -> str | None:
    """A note where layers that matter are faster than the peaks allow."""
    fast = [layer for layer in layers if layer.floor_ms and layer.floor_ms > ABOVE_PEAK * layer.mean_ms]
    if sum(layer.share for layer in fast) < WORTH_A_WORD:
        return None
    most = max(fast, key=lambda layer: (layer.floor_ms or 0.0) / layer.mean_ms)
    are = "layer is" if len(fast) == 1 else "layers are"
    return (
        f"{len(fast)} {are} faster than the device's peaks allow ({most.name}: {(most.floor_ms or 0) / most.mean_ms:.2g} times): "
        "the peaks were measured too low, or a fast algorithm computes fewer operations than are counted"
    )
