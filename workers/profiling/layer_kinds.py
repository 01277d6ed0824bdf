"""What a row of a profile computes, as far as advice cares: told by the layers of an inspection, else by its operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from app.profiles.schemas import Layer

Kind = Literal["convolution", "pointwise", "depthwise", "product", "attention", "other"]
NARROW = 8  # input channels, below which kernels that work on many at once have little to do
DEPTHWISE_WORK = (
    49  # products for an output value, up to which an unknown convolution is taken for a depthwise one
)
DENSE: frozenset[Kind] = frozenset(("convolution", "pointwise", "product"))


@dataclass(frozen=True)
class LayerKind:
    """`convolution`: of a kernel larger than one place, over all channels; `pointwise`: of one place; `depthwise`: with groups;
    `product`: of values and a weight; `attention`: of values; `other`: nothing that operations are counted of.

    `work` is how many products an output value sums. Channels, and the kernel's places, are None where nobody can tell.
    """

    kind: Kind
    work: float = 0.0
    channels_in: int | None = None
    channels_out: int | None = None
    places: int | None = None

    @property
    def dense(self) -> bool:
        """Whether it multiplies by a weight over many channels: what units for products are made for."""
        return self.kind in DENSE and not self.narrow

    @property
    def narrow(self) -> bool:
        """Whether it has too few input channels for that, as the first layer on an image has."""
        return self.channels_in is not None and self.channels_in < NARROW


def kind_of(layer: Layer, structure: Mapping[str, Mapping[str, Any]]) -> LayerKind:
    """The kind of a row; of several layers that it computes, the one with most operations counts."""
    if not layer.flops:
        return LayerKind("other")
    told = [structure[name] for name in layer.layers if name in structure and structure[name]["flops"]]
    if told:
        return _told(max(told, key=lambda one: one["flops"]), layer)
    return _guessed(layer)


def _told(entry: Mapping[str, Any], layer: Layer) -> LayerKind:
    outputs = prod(entry["output"]) or 1
    work = entry["flops"] / (2 * outputs)
    savings, convolution = entry["savings"], "conv" in entry["kind"].lower()
    if "depthwise-separable" in savings:
        # what is left is 1 / outputs + 1 / places
        channels = entry["output"][0]
        share = savings["depthwise-separable"]["flops"] / entry["flops"] - 1 / channels
        places = max(1, round(1 / share)) if share > 0 else 1
        return LayerKind("convolution", work, round(work / places), channels, places)
    if convolution:
        kind: Kind = "pointwise" if "low-rank" in savings else "depthwise"
        channels_in = round(work) if kind == "pointwise" else None
        return LayerKind(kind, work, channels_in, entry["output"][0])
    if "low-rank" in savings or entry["parameters"]:
        return LayerKind("product", work, round(work), entry["output"][-1] if entry["output"] else None)
    return LayerKind("attention", work)


def _guessed(layer: Layer) -> LayerKind:
    outputs = prod(layer.output) if layer.output else 0
    work = (layer.flops or 0) / (2 * outputs) if outputs else 0.0
    operator = layer.operator.lower()
    if "conv" in operator:
        return LayerKind("depthwise" if work <= DEPTHWISE_WORK else "convolution", work)
    return LayerKind("product", work)
