"""Smaller networks: fewer channels, cheaper layers in the place of others. Training has to follow, which no request here presumes."""

from collections.abc import Iterator
from math import ceil

from app.profiles.schemas import Layer, Peaks
from workers.profiling.advice import rule
from workers.profiling.advising import Case, Finding
from workers.profiling.costs import Cost
from workers.profiling.gains import Ratio, gain_of, noticeable
from workers.profiling.layer_kinds import LayerKind
from workers.profiling.roofline import floors_ms

HEAVY = 0.04  # of the time, from which on a layer is worth replacing
PRUNED_TO = 0.5  # of the operations
COMPUTES = 0.25  # of a layer's time, that its floor is at least where operations decide it
BLOCK = 16  # channels that kernels on processors with AVX-512 and on tensor cores compute together
RAGGED = 4  # ONNX Runtime's layout in blocks takes inputs of multiples of this

# measured: see `docs/decisions/profiling.md`
DEPTHWISE = Ratio(0.2, 1.0)  # the share of its floor's rate that a depthwise convolution reaches
RAGGED_DEPTHWISE = Ratio(0.08, 1.0)
POINTWISE = Ratio(0.65, 1.25)
FAR_BELOW = 0.6  # of the floor's rate, that layers of many channels mostly reach
BLOCKED = 1.1  # times its floor's rate, that a convolution reaches in ONNX Runtime's layout in blocks
PRUNED_DENSE = Ratio(0.92, 1.3)  # new time over the share of operations that is left
ROUNDED_DOWN = 0.85  # of the operations that were asked for, left where few channels are rounded to blocks
PRUNED_OTHER = Ratio(0.5, 1.0)  # new time over the time before
TRAIN = "Accuracy falls until the network is trained again: put `distill` or `finetune` with training data behind it."


@rule("depthwise-separable")
def depthwise_separable(case: Case) -> Iterator[Finding]:
    """A depthwise and a pointwise convolution in the place of a heavy one of k×k: by the floors of the two."""
    peaks = case.profile.peaks
    if case.precision != "fp32" or peaks is None:
        return
    replaced = {
        place: ratio
        for place, kind in enumerate(case.kinds)
        if (ratio := _separated(case, place, kind, peaks)) is not None and ratio.high < 1.0
    }
    heavy = [place for place in replaced if case.layers[place].share >= HEAVY]
    gain = gain_of(case.profile, replaced)
    if not heavy or not noticeable(gain):
        return
    slowest = max(heavy, key=lambda place: case.layers[place].mean_ms)
    layer, kind = case.layers[slowest], case.kinds[slowest]
    assert kind.places is not None
    yield Finding(
        title=f"Make {len(replaced)} convolutions depthwise-separable",
        why=f"{len(heavy)} convolutions of k×k take {case.share(heavy):.0%} of the time; the slowest, {layer.name}, takes "
        f"{layer.mean_ms:.3g} ms for {(layer.flops or 0) / 1e6:.3g} million operations, of which "
        f"{1 / (kind.channels_out or 1) + 1 / kind.places:.0%} are left in a depthwise and a pointwise one. {TRAIN}",
        evidence={
            "heavy": len(heavy),
            "share": round(case.share(list(replaced)), 4),
            "slowest": layer.name,
            "flops_left": round(1 / (kind.channels_out or 1) + 1 / kind.places, 4),
        },
        layers=heavy,
        gain=gain,
        costs_accuracy=True,
        request=case.request([{"pass": "depthwise-separable"}]),
    )


@rule("prune-channels")
def prune_channels(case: Case) -> Iterator[Finding]:
    """Half of the operations by fewer channels: layers whose time follows their operations take about half of it."""
    heavy = [place for place, kind in enumerate(case.kinds) if kind.dense and _computes(case.layers[place])]
    units = [entry["savings"].get("prune-channels", {}).get("units") for entry in case.structure.values()]
    if case.precision != "fp32" or case.share(heavy) < HEAVY or (units and set(units) == {0}):
        return
    ratios = {place: _pruned(case, place, kind) for place, kind in enumerate(case.kinds)}
    gain = gain_of(case.profile, ratios)
    if not noticeable(gain):
        return
    yield Finding(
        title="Remove channels until half of the operations are left",
        why=f"{len(heavy)} layers multiply over many channels, {case.share(heavy):.0%} of the time: fewer channels save it on any runtime. {TRAIN}",
        evidence={"layers": len(heavy), "share": round(case.share(heavy), 4), "to": PRUNED_TO},
        layers=heavy,
        gain=gain,
        costs_accuracy=True,
        request=case.request(
            [{"pass": "prune-channels", "params": {"target": "flops", "to": PRUNED_TO, "round_to": BLOCK}}]
        ),
    )


@rule("round-channels")
def round_channels(case: Case) -> Iterator[Finding]:
    """Convolutions whose odd number of channels keeps them out of ONNX Runtime's layout in blocks: a few channels less are faster."""
    unblocked = (case.engine.get("unblocked") or {}).get("count", 0)
    odd = [place for place, kind in enumerate(case.kinds) if ragged(case, kind)]
    if not unblocked or not odd or case.precision != "fp32":
        return
    cut = max(
        (count % RAGGED) / count
        for place in odd
        for count in (case.kinds[place].channels_in, case.kinds[place].channels_out)
        if count
    )
    gain = gain_of(case.profile, {place: _blocked(case, case.layers[place], 1 - cut) for place in odd})
    if not noticeable(gain):
        return
    yield Finding(
        title=f"Round channels to multiples of {RAGGED}",
        why=f"{len(odd)} convolutions, {case.share(odd):.0%} of the time, read or make numbers of channels that are no multiples of {RAGGED}, so "
        f"the runtime computes them without its layout of channels in blocks. {TRAIN}",
        evidence={
            "ragged": len(odd),
            "share": round(case.share(odd), 4),
            "channels": {
                case.layers[place].name: [case.kinds[place].channels_in, case.kinds[place].channels_out]
                for place in odd[:20]
            },
        },
        layers=odd,
        gain=gain,
        costs_accuracy=True,
        request=case.request(
            [
                {
                    "pass": "prune-channels",
                    "params": {
                        "ratio": min(ceil(1000 * cut) / 1000, 0.5),
                        "scope": "per-layer",
                        "round_to": RAGGED,
                    },
                }
            ]
        ),
    )


def ragged(case: Case, kind: LayerKind) -> bool:
    """Whether a convolution's channels do not fit ONNX Runtime's layout in blocks (`NchwcTransformer` in its source)."""
    if case.runtime != "onnxruntime-cpu" or kind.kind not in ("convolution", "pointwise") or kind.narrow:
        return False
    return any(count is not None and count % RAGGED for count in (kind.channels_in, kind.channels_out))


def _rates(case: Case, seen: Ratio) -> Ratio:
    """Rates that were seen elsewhere, where this profile's own layers do not lie far below: then in proportion to them."""
    if case.reached >= FAR_BELOW:
        return seen
    return Ratio(seen.low * case.reached, min(seen.high, case.reached / FAR_BELOW * seen.high))


def _blocked(case: Case, layer: Layer, left: float) -> Ratio:
    """Of a convolution that gets the layout, with a share of its operations left, at best."""
    rate = _rates(case, Ratio(BLOCKED, BLOCKED)).high
    least = (layer.floor_ms or layer.mean_ms) / rate / layer.mean_ms if layer.mean_ms else 1.0
    return Ratio(left * min(max(least, 0.1), 1.0), 1.0)


def _separated(case: Case, place: int, kind: LayerKind, peaks: Peaks) -> Ratio | None:
    """New time of a convolution over the time before; None where it is none that the pass replaces."""
    layer = case.layers[place]
    if kind.kind != "convolution" or kind.narrow or not layer.flops or not layer.mean_ms:
        return None
    if kind.channels_in is None or kind.channels_out is None or kind.places is None:
        return None
    positions = layer.flops // (2 * kind.channels_in * kind.channels_out * kind.places)
    size = {"fp32": 4, "bf16": 2, "fp16": 2}.get(layer.precision or "fp32", 4)
    first, between, last = (
        size * positions * channels for channels in (kind.channels_in, kind.channels_in, kind.channels_out)
    )
    both = (
        Cost(2 * positions * kind.channels_in * kind.places, first + between, size * kind.channels_in * kind.places),
        Cost(2 * positions * kind.channels_in * kind.channels_out, between + last, size * kind.channels_in * kind.channels_out),
    )  # fmt: skip
    floors = [floors_ms(cost, layer.precision, peaks, streamed=False) for cost in both]
    if None in floors:
        return None
    least = [max(found) for found in floors if found is not None]
    rates = [_rates(case, RAGGED_DEPTHWISE if ragged(case, kind) else DEPTHWISE), _rates(case, POINTWISE)]
    best = sum(floor / rate.high for floor, rate in zip(least, rates, strict=True))
    worst = sum(floor / rate.low for floor, rate in zip(least, rates, strict=True))
    return Ratio(best / layer.mean_ms, worst / layer.mean_ms)


def _computes(layer: Layer) -> bool:
    """Whether its time follows its operations, though its kernel may be slow."""
    return layer.bound != "memory" and (layer.floor_ms or 0.0) >= COMPUTES * layer.mean_ms


def _pruned(case: Case, place: int, kind: LayerKind) -> Ratio:
    if not kind.dense and kind.kind != "attention":
        return PRUNED_OTHER
    low, high = PRUNED_DENSE.low * PRUNED_TO, PRUNED_DENSE.high * PRUNED_TO
    if ragged(case, kind):  # blocks of channels are rounded down, and get the layout for blocks besides
        low = _blocked(case, case.layers[place], ROUNDED_DOWN * low).low
    return Ratio(low, high)
