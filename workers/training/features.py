"""Values inside of two networks, compared while one learns from the other.

Source: Romero et al., FitNets: Hints for Thin Deep Nets, 2015 (https://arxiv.org/abs/1412.6550).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.training.feature_pairs import Pair, cannot_compare

_POOLING: Mapping[int, Callable[..., Tensor]] = {
    3: functional.adaptive_avg_pool1d,
    4: functional.adaptive_avg_pool2d,
    5: functional.adaptive_avg_pool3d,
}
_RESIZING = {3: "linear", 4: "bilinear", 5: "trilinear"}


class Features:
    """The layers of both networks that are compared: hooks remember what they gave in the last call."""

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Sequence[Pair], seed: int):
        self._pairs = pairs
        self._given: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for network, given, names in (
            (student, self._given[0], {pair.student.name for pair in pairs}),
            (teacher, self._given[1], {pair.teacher.name for pair in pairs}),
        ):
            for name in names:
                network.get_submodule(name).register_forward_hook(_remember(given, name))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._maps = nn.ModuleList(map(_map, pairs))

    def to(self, device: torch.device) -> "Features":
        """The maps on a device."""
        self._maps.to(device)
        return self

    def parameters(self) -> list[nn.Parameter]:
        """The weights of the maps from the student's channels to the teacher's."""
        return list(self._maps.parameters())

    def error(self) -> Tensor:
        """The squared difference relative to the teacher's square, the mean over the pairs, in float32; what was seen is forgotten.

        Raises:
            InvalidParams: values of a pair have shapes that cannot be brought together.
        """
        found = [self._error_of(pair, one) for pair, one in zip(self._pairs, self._maps, strict=True)]
        for given in self._given:
            given.clear()
        return torch.stack(found).mean()

    def _error_of(self, pair: Pair, channels: nn.Module) -> Tensor:
        wanted = self._given[1][pair.teacher.name].detach().float()
        found = channels(self._given[0][pair.student.name].float().movedim(pair.student.axis, -1))
        wanted = wanted.movedim(pair.teacher.axis, -1)
        if found.shape != wanted.shape:
            found = _resized(found, wanted, pair)
        error: Tensor = (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
        return error


def _remember(given: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        given[name] = output

    return hook


def _map(pair: Pair) -> nn.Module:
    before, after = pair.student.channels, pair.teacher.channels
    return nn.Identity() if before == after else nn.Linear(before, after)


def _resized(found: Tensor, wanted: Tensor, pair: Pair) -> Tensor:
    """Channels last: averaged where the student has more points than the teacher, else interpolated."""
    size = wanted.shape[1:-1]
    if found.dim() != wanted.dim() or found.dim() not in _RESIZING or not pair.student.spatial:
        raise cannot_compare(pair.student, pair.teacher, list(found.shape[1:]), list(wanted.shape[1:]))
    values = found.movedim(-1, 1)
    if all(own >= other for own, other in zip(values.shape[2:], size, strict=True)):
        resized = _POOLING[values.dim()](values, tuple(size))
    else:
        mode = _RESIZING[values.dim()]
        resized = functional.interpolate(values, size=tuple(size), mode=mode, align_corners=False)
    return resized.movedim(1, -1)
