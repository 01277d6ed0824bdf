"""Residual branches dropped from a lifted network one by one, by what its outputs lose, until it costs little enough."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor, fx

from app.catalog.pass_params.shrink_depth import ShrinkDepthParams
from app.errors import IncompatibleRecipe, InvalidDataset, InvalidModel
from app.measurements.compare import Interval
from workers.context import PassContext
from workers.surgery.branches import Branch, Branches
from workers.surgery.counting import LayerCount, layers, totals
from workers.surgery.drawing import drawn
from workers.surgery.factoring import at_least, reasons
from workers.surgery.naming import check_ignored, is_ignored
from workers.torch.model import TorchModel, leaves
from workers.training.rebatch import rebatched
from workers.training.task import device_of

STAGE = "shrink-depth"
BATCH = 16
Kept = Mapping[str, int]  # see `Branch`: the operand that stays, by the addition
Time = Callable[[TorchModel], Interval]


@dataclass(frozen=True)
class Drop:
    """A branch that went, and the network without it and all before it: what is left, and the error of its outputs, a relative
    root mean square."""

    branch: Branch
    error: float
    parameters: int
    flops: int
    gone: dict[str, int]


@dataclass
class Shrunk:
    """What was dropped from a network, the first first, and what stayed for which reason."""

    network: fx.GraphModule
    drops: list[Drop]
    left_out: dict[str, str]
    tried: list[dict[str, Any]] = field(default_factory=list)  # of latency


def shrink(
    model: TorchModel,
    before: Mapping[str, LayerCount],
    params: ShrinkDepthParams,
    ctx: PassContext,
    time: Time | None,
) -> Shrunk:
    """The network without branches; the given one shares its weights. `time` measures a candidate, see `context.Timing`.

    Raises:
        IncompatibleRecipe: there is no branch, or the goal is out of reach.
        InvalidParams: `ignore` names what is not there.
        InvalidDataset, SignatureMismatch, InvalidModel: see `drawn` and `rebatched`; the outputs cannot be compared.
    """
    network = model.module
    assert isinstance(network, fx.GraphModule)
    branches = Branches(network, before)
    left_out = dict(branches.left_out)
    _check_ignored(branches, params)
    for one in branches.found:
        if any(is_ignored(name, params.ignore) for name in (one.name, *one.layers)):
            left_out[one.name] = "is ignored"
    if len(left_out) >= len(branches.found) + len(branches.left_out):
        raise IncompatibleRecipe(
            f"there is no residual branch to drop: {reasons(left_out) or 'no addition has an operand that the other is computed from'}",
            stage=STAGE,
            hint="take layers out of `ignore`, or use `prune-channels` or `low-rank`, which need no residual branches",
        )
    path = _Path(model, branches, set(left_out), before, params, ctx)
    tried: list[dict[str, Any]] = []
    if params.count is not None:
        count = _by_count(path, params.count)
    elif params.goal == "latency":
        assert time is not None
        count = _by_latency(path, params.to, time, tried)
    else:
        count = _by_cost(path, params.to, params.goal)
    drops = path.drops[:count]
    return Shrunk(branches.without(drops[-1].gone), drops, left_out, tried)


def _check_ignored(branches: Branches, params: ShrinkDepthParams) -> None:
    names = [name for one in branches.found for name in (one.name, *one.layers)]
    check_ignored(params.ignore, list(dict.fromkeys(names)), "branch and no layer of one", STAGE)


class _Path:
    """Networks from deep to shallow: without the first branch that goes, the second …, each found when it is asked for."""

    def __init__(
        self, model: TorchModel, branches: Branches, stay: set[str], before: Mapping[str, LayerCount], params: ShrinkDepthParams,
        ctx: PassContext,
    ):  # fmt: skip
        self.drops: list[Drop] = []
        self._model, self._branches, self._stay, self._params, self._ctx = model, branches, stay, params, ctx
        self.parameters, self.flops = totals(list(before.values()))
        self._counts = before
        self._outputs = _Outputs(model, params.samples, before, ctx)

    def share(self, drop: Drop, what: str) -> float:
        """What is left of FLOPs or parameters."""
        whole, left = (self.parameters, drop.parameters) if what == "parameters" else (self.flops, drop.flops)
        return left / max(whole, 1)

    def network(self, count: int) -> TorchModel:
        """The network without the first branches."""
        return TorchModel(
            self._branches.without(self.drops[count - 1].gone), self._model.inputs, self._model.outputs
        )

    def next(self) -> bool:
        """Drop one more; False: there is none."""
        gone = self.drops[-1].gone if self.drops else {}
        error = self.drops[-1].error ** 2 if self.drops else 0.0
        candidates = [one for one in self._branches.left(gone) if one.name not in self._stay]
        candidates = [one for one in candidates if any(self._branches.saved(gone, one))]
        if not candidates:
            return False
        without = [{**gone, one.addition: one.kept} for one in candidates]
        errors = self._outputs.errors(without, f"measuring branches, {len(self.drops)} dropped")
        chosen = min(
            range(len(candidates)),
            key=lambda number: (self._worth(gone, candidates[number], errors[number] - error), number),
        )
        if errors[chosen] == inf:
            return False
        parameters, flops = totals(layers(self._branches.without(without[chosen]), self._model.inputs))
        self.drops.append(Drop(candidates[chosen], sqrt(errors[chosen]), parameters, flops, without[chosen]))
        return True

    def _worth(self, gone: Kept, one: Branch, loss: float) -> float:
        """What is lost with a branch; where it counts, for what is saved."""
        if not self._params.per_saving or self._params.count is not None:
            return loss
        parameters, flops = self._branches.saved(gone, one)
        saved = parameters if self._params.goal == "parameters" else flops
        # a gain is no reason to take the branch that saves least
        return loss / saved if saved and loss > 0 else loss if loss <= 0 else inf


class _Outputs:
    """What the network gives on samples, with and without branches."""

    def __init__(self, model: TorchModel, samples: int, counts: Mapping[str, LayerCount], ctx: PassContext):
        self._device = device_of(ctx.device)
        self._twin = rebatched(TorchModel(copy.deepcopy(model.module), model.inputs, model.outputs))
        network = self._twin.module.to(self._device)
        assert isinstance(network, fx.GraphModule)
        self._branches = Branches(network, counts)
        self._samples, self._ctx = samples, ctx

    @torch.no_grad()
    def errors(self, without: Sequence[Kept], doing: str) -> list[float]:
        """The mean over all outputs of the squared error over the variance, for each set of branches; inf where outputs are no
        numbers, or have another shape."""
        networks = [self._branches.without(one) for one in without]
        count = [0.0] * len(self._twin.outputs)
        sums, squares = list(count), list(count)
        wrong = [list(count) for _ in networks]
        for batch in drawn(self._twin.inputs, self._ctx, BATCH, self._samples, self._device, doing):
            wanted = self._given(self._twin.module, batch.inputs)
            for number, value in wanted.items():
                count[number] += value.numel()
                sums[number] += float(value.sum())
                squares[number] += float(value.square().sum())
            for apart, network in zip(wrong, networks, strict=True):
                for number, value in self._given(network, batch.inputs).items():
                    same = number in wanted and value.shape == wanted[number].shape
                    apart[number] += float((value - wanted[number]).square().sum()) if same else inf
        compared = [number for number, one in enumerate(count) if one]
        if not compared:
            raise InvalidModel(
                "no output is of floating point numbers, so nobody can say what a branch changes",
                stage=STAGE,
                hint="upload the network with the scores that it chooses by as an output",
            )
        spread = self._spread(compared, count, sums, squares)
        found = []
        for apart in wrong:
            error = sum(apart[number] / spread[number] for number in compared) / len(compared)
            found.append(error if error >= 0 else inf)  # NaN is neither
        return found

    def _spread(
        self, compared: Sequence[int], count: Sequence[float], sums: Sequence[float], squares: Sequence[float]
    ) -> dict[int, float]:
        """The squared distance of each output from its mean; of one that is the same everywhere, from zero."""
        found = {}
        for number in compared:
            if not squares[number] < inf:
                raise InvalidDataset(
                    f"the output {self._twin.outputs[number]['name']!r} is NaN or infinity on the training data",
                    stage=STAGE,
                    param="inputs.train",
                    hint="look for NaN in the data, and for a missing `normalize` transform",
                )
            about_mean = squares[number] - sums[number] ** 2 / count[number]
            about_mean = about_mean if about_mean > 1e-12 * squares[number] else squares[number]
            found[number] = about_mean or 1.0
        return found

    def _given(self, network: torch.nn.Module, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The outputs that are of floating point numbers, by their place. Some networks write into their inputs."""
        values = leaves(network(*(one.clone() for one in inputs)))
        return {number: value.double() for number, value in enumerate(values) if value.is_floating_point()}


def _by_count(path: _Path, count: int) -> int:
    while len(path.drops) < count:
        if not path.next():
            raise IncompatibleRecipe(
                f"count={count} is out of reach: {len(path.drops)} residual branches can go",
                stage=STAGE,
                param="count",
                hint=f"set `count` to {len(path.drops)} or less, or take layers out of `ignore`",
            )
    return count


def _by_cost(path: _Path, share: float, what: str) -> int:
    """How many branches go until at most a share of FLOPs or parameters is left."""
    while not path.drops or path.share(path.drops[-1], what) > share:
        if not path.next():
            left = path.share(path.drops[-1], what) if path.drops else 1.0
            raise _out_of_reach(what, share, left)
    return len(path.drops)


def _by_latency(path: _Path, share: float, time: Time, tried: list[dict[str, Any]]) -> int:
    """The fewest branches without which at most a share of the latency is left; the share of the FLOPs is where the search
    begins."""
    known: dict[int, float] = {}

    def measured(count: int) -> float:
        seen = time(path.network(count))
        known[count] = seen.value
        flops = path.share(path.drops[count - 1], "flops")
        tried.append(
            {"branches": count, "flops": flops, "latency": seen.value, "low": seen.low, "high": seen.high}
        )
        return seen.value

    while path.next() and path.share(path.drops[-1], "flops") > share:
        pass
    slow, fast = 0, len(path.drops)
    while not fast or measured(fast) > share:
        slow = fast
        if not path.next():
            raise _out_of_reach("latency", share, min(known.values(), default=1.0))
        fast = len(path.drops)
    while fast - slow > 1:
        middle = (slow + fast) // 2
        if measured(middle) <= share:
            fast = middle
        else:
            slow = middle
    return fast


def _out_of_reach(what: str, share: float, nearest: float) -> IncompatibleRecipe:
    told = at_least(nearest)
    return IncompatibleRecipe(
        f"{share:g} of the {what} is out of reach: {told} stays when all residual branches that may go are gone",
        stage=STAGE,
        param="to",
        hint=f"set `to` to {told} or more, take layers out of `ignore`, or add `prune-channels` or `low-rank`",
    )
