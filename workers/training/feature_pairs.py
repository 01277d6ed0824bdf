"""Which layers of two networks are compared: those that are named, else those that lie at the same place."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from app.catalog.pass_params.distill import FeaturePair
from app.errors import InvalidParams
from workers.torch.exporting import sizes_that_run
from workers.torch.model import TorchModel, example_inputs, label
from workers.training.task import STAGE
from workers.training.teachers import Teacher, about_teacher

PARAM = "features"
T = TypeVar("T")
MOST_PAIRS = 4  # that are chosen
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Layer:
    """A layer as a network calls it. `shape` is its output's on examples; channels lie on `axis`, 1 or -1."""

    name: str
    kind: type[nn.Module]
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        """Their number."""
        return self.shape[self.axis]

    @property
    def spatial(self) -> bool:
        """Whether it gives a picture, a row or a volume of points, whose number may be changed."""
        return self.axis == 1 and len(self.shape) > 2

    @property
    def points(self) -> tuple[int, ...]:
        """How many of them along each axis."""
        return self.shape[2:] if self.spatial else ()


@dataclass(frozen=True)
class Pair:
    """Two layers that are compared."""

    student: Layer
    teacher: Layer


def pairs_of(student: TorchModel, teacher: Teacher, named: Sequence[FeaturePair]) -> list[Pair]:
    """The pairs that are named, or chosen where none is. Both networks are on the CPU and in eval mode.

    Raises:
        InvalidParams: a layer is not there, or the layers cannot be compared, or none were found that can.
        InvalidModel: a network does not run on samples that were generated to fit.
    """
    samples = _examples(student, teacher)
    own = layers_of(student.module, samples)
    with about_teacher():
        other = layers_of(teacher.model.module, [samples[place] for place in teacher.places])
    if not named:
        found = _chosen(own, other)
        if not found:
            raise InvalidParams(
                "no layers of the two networks lie at the same place, so no features can be matched",
                stage=STAGE,
                param=PARAM,
                hint="name them: {'features': [{'student': …, 'teacher': …}]}; "
                f"the student has {_some(own)}; the teacher {_some(other)}",
            )
        return found
    pairs = [
        Pair(_named(own, pair.student, "student", n), _named(other, pair.teacher, "teacher", n))
        for n, pair in enumerate(named)
    ]
    for pair in pairs:
        if not _comparable(pair):
            raise cannot_compare(pair.student, pair.teacher, pair.student.shape[1:], pair.teacher.shape[1:])
    return pairs


@torch.no_grad()
def layers_of(network: nn.Module, samples: Sequence[Tensor]) -> dict[str, Layer]:
    """The layers that a network calls and that give a tensor of floating-point numbers a sample, in the order of their last call."""
    found: dict[str, Layer] = {}
    count = len(samples[0])

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if (
                isinstance(output, Tensor)
                and output.is_floating_point()
                and output.dim() >= 2
                and len(output) == count
            ):
                first = isinstance(module, _CHANNELS_FIRST) or output.dim() >= 4
                found.pop(name, None)
                found[name] = Layer(name, type(module), tuple(output.shape), 1 if first else -1)

        return hook

    hooks = [
        module.register_forward_hook(look(name))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        network(*samples)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _comparable(pair: Pair) -> bool:
    """Whether a map of channels, and a change of size where there are pictures, makes them comparable."""
    one, other = pair.student, pair.teacher
    if len(one.shape) != len(other.shape):
        return False
    return (one.spatial and other.spatial) or (
        one.axis % len(one.shape) == other.axis % len(other.shape) and one.shape[:-1] == other.shape[:-1]
    )


def cannot_compare(student: Layer, teacher: Layer, own: Sequence[int], other: Sequence[int]) -> InvalidParams:
    """The refusal of a pair."""
    return InvalidParams(
        f"the features cannot be matched: the student's {student.name!r} gives {list(own)} a sample, "
        f"the teacher's {teacher.name!r} {list(other)}",
        stage=STAGE,
        node=student.name,
        param=PARAM,
        hint="name layers that give the same kind of values: pictures with pictures, tokens with as many tokens",
    )


def _examples(student: TorchModel, teacher: Teacher) -> list[Tensor]:
    """Two samples that fit both: what the teacher fixes is fixed for the student too."""
    dims = sizes_that_run(student)
    for place, entry in zip(teacher.places, teacher.model.inputs, strict=True):
        for axis, (own, other) in enumerate(zip(student.inputs[place]["shape"], entry["shape"], strict=True)):
            if axis and not isinstance(own, int) and isinstance(other, int):
                dims[label(own, axis)] = other
    return list(example_inputs(student.inputs, dims=dims))


def _named(layers: Mapping[str, Layer], name: str, whose: str, number: int) -> Layer:
    if name in layers:
        return layers[name]
    near = difflib.get_close_matches(name, layers, 5, 0.3)
    inner = [own for own in layers if own.startswith(f"{name}.")][-3:]
    raise InvalidParams(
        f"the {whose} calls no layer {name!r} that gives values a sample",
        stage=STAGE,
        node=name,
        param=f"{PARAM}[{number}].{whose}",
        hint=f"layers of it are {', '.join(inner or near) or _some(layers)}",
    )


def _some(layers: Iterable[str]) -> str:
    names = list(layers)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _chosen(own: Mapping[str, Layer], other: Mapping[str, Layer]) -> list[Pair]:
    """By name where the teacher has most of the student's layers; else by the size of pictures, else by relative depth."""
    ends, others = _ends(own), _ends(other)
    if sum(name in other for name in own) * 2 > len(own):
        pairs = [Pair(layer, other[layer.name]) for layer in ends if layer.name in other]
        pairs = _spread(pairs, min(len(pairs), MOST_PAIRS))
    else:
        sizes = {layer.points: layer for layer in others}
        pairs = [
            Pair(layer, sizes[layer.points]) for layer in ends if layer.spatial and layer.points in sizes
        ]
        if not pairs:
            count = min(len(ends), len(others), MOST_PAIRS)
            pairs = list(map(Pair, _spread(ends, count), _spread(others, count)))
    return [pair for pair in pairs if _comparable(pair)][-MOST_PAIRS:]


def _ends(layers: Mapping[str, Layer]) -> list[Layer]:
    """The last layer at each size of the picture; of networks without pictures the norms, else the linear layers but the last."""
    kept = [layer for layer in layers.values() if not issubclass(layer.kind, nn.modules.dropout._DropoutNd)]
    pictures: dict[tuple[int, ...], Layer] = {}
    for layer in kept:
        if layer.spatial:
            pictures.pop(layer.points, None)
            pictures[layer.points] = layer
    norms = [layer for layer in kept if issubclass(layer.kind, _NORMS)]
    return (
        list(pictures.values())
        or norms
        or [layer for layer in kept if issubclass(layer.kind, nn.Linear)][:-1]
    )


def _spread(values: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly, the last among them."""
    return [values[(number + 1) * len(values) // count - 1] for number in range(count)]
