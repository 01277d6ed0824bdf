"""What each unit of channels is worth: by its weights alone, or by what the loss says of them on data.

A unit's effect is read where layers read its channels: to first order, removing it changes the loss by the sum of gradient ×
weight over the columns of all its readers, which is what a gate on the channels would tell (Molchanov et al., 2019,
https://arxiv.org/abs/1906.10771).
"""

import copy
from collections.abc import Iterator, Mapping
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from app.catalog.evaluation import output_read
from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.errors import IncompatibleRecipe, InvalidDataset
from workers.context import PassContext
from workers.surgery.channels import STAGE, Coupling
from workers.surgery.drawing import drawn
from workers.surgery.naming import some
from workers.torch.model import TorchModel, leaves
from workers.training.losses import Loss, labelled_loss
from workers.training.rebatch import rebatched
from workers.training.task import Batch, device_of

BY_DATA = frozenset({"taylor", "hessian"})
Scores = dict[int, float]  # by unit


class _Sums:
    """Numbers summed by unit, from what stands on axes of weights."""

    def __init__(self, coupling: Coupling):
        self._units = torch.tensor(coupling.units, dtype=torch.long)
        self.total = torch.zeros(len(self._units), dtype=torch.float64)
        self.count = torch.zeros(len(self._units), dtype=torch.float64)

    def add(self, sets: Tensor, values: Tensor) -> None:
        """Add a value for each place to the unit that stands there."""
        here = torch.isin(sets, self._units)
        numbers = torch.searchsorted(self._units, sets[here])
        self.total.index_add_(0, numbers, values.detach().cpu().double()[here])
        self.count.index_add_(0, numbers, torch.ones(len(numbers), dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        """The mean over the places of each unit; NaN where it has none."""
        return self.total / self.count


def scores_of(model: TorchModel, coupling: Coupling, params: PruneChannelsParams, ctx: PassContext) -> Scores:
    """What each unit is worth. Units that this importance says nothing of are left out, and a warning says of which layers.

    Raises:
        IncompatibleRecipe: it says nothing of any unit; or the loss does not depend on some layers.
        InvalidDataset, InvalidParams, SignatureMismatch: labels, outputs and data do not fit each other.
    """
    if params.importance == "random":
        generator = torch.Generator().manual_seed(ctx.seed)
        values = torch.rand(len(coupling.units), generator=generator, dtype=torch.float64)
    elif params.importance in BY_DATA:
        values = _by_gradients(model, coupling, params, ctx)
    elif params.importance == "batch-norm":
        values = _by_batch_norms(model.module, coupling)
    else:
        values = _by_magnitude(model.module, coupling, 1 if params.importance == "magnitude-l1" else 2)
    known = {
        unit: value for unit, value in zip(coupling.units, values.tolist(), strict=True) if isfinite(value)
    }
    if not known:
        raise IncompatibleRecipe(
            f"{params.importance} says nothing of the channels that could be removed: no batch norm scales them",
            stage=STAGE,
            param="importance",
            hint="use magnitude-l2, or taylor with `train` data; exporters to ONNX fold batch norms into convolutions",
        )
    if missing := _layers_of(coupling, set(coupling.units) - set(known)):
        ctx.warn(
            f"{params.importance} says nothing of {len(missing)} layers, whose channels stay: {some(missing)}"
        )
    return known


def _by_magnitude(network: nn.Module, coupling: Coupling, order: int) -> Tensor:
    """The norm of each filter over the mean norm of its layer, the mean over the unit's filters."""
    sums = _Sums(coupling)
    for reading, sets in coupling.readings():
        if reading.role == "out" and reading.attribute == "weight":
            weight = network.get_submodule(reading.layer).weight
            assert isinstance(weight, Tensor)
            if weight.shape[reading.axis] == len(sets):
                norms = weight.detach().movedim(reading.axis, 0).flatten(1).norm(order, 1)
                sums.add(sets, norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny))
    return sums.mean


def _by_batch_norms(network: nn.Module, coupling: Coupling) -> Tensor:
    """The mean magnitude of γ over the unit's batch norms."""
    sums = _Sums(coupling)
    for reading, sets in coupling.readings():
        layer = network.get_submodule(reading.layer)
        if isinstance(layer, _BatchNorm) and reading.attribute == "weight":
            sums.add(sets, layer.weight.abs())
    return sums.mean


def _by_gradients(
    model: TorchModel, coupling: Coupling, params: PruneChannelsParams, ctx: PassContext
) -> Tensor:
    """The mean over batches of (Σ gradient × weight)² where the unit is read; of Σ (gradient × weight)² / 2 for `hessian`."""
    device = device_of(ctx.device)
    twin = rebatched(TorchModel(copy.deepcopy(model.module), model.inputs, model.outputs))
    twin.module.to(device).requires_grad_(True)
    readings = [pair for pair in coupling.readings() if pair[0].role != "norm"]
    total = {role: torch.zeros(len(coupling.units), dtype=torch.float64) for role in ("in", "out")}
    known = {role: torch.zeros(len(coupling.units), dtype=torch.bool) for role in ("in", "out")}
    count, silent = 0, set[str]()
    for loss in _losses(twin, params, ctx, device):
        twin.module.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for role in ("in", "out"):
            sums = _Sums(coupling)
            for reading, sets in readings:
                if reading.role != role:
                    continue
                weight = getattr(twin.module.get_submodule(reading.layer), reading.attribute)
                if weight.grad is None:
                    silent.add(reading.layer)
                    continue
                effect = (weight.grad * weight.detach()).movedim(reading.axis, 0).reshape(len(sets), -1)
                sums.add(
                    sets, effect.square().sum(1) / 2 if params.importance == "hessian" else effect.sum(1)
                )
            total[role] += sums.total if params.importance == "hessian" else sums.total.square()
            known[role] |= sums.count > 0
        count += 1
    _check_silent(coupling, silent, params.importance)
    values = torch.where(known["in"], total["in"], total["out"]) / max(count, 1)
    return torch.where(known["in"] | known["out"], values, torch.nan)


def _losses(
    model: TorchModel, params: PruneChannelsParams, ctx: PassContext, device: torch.device
) -> Iterator[Tensor]:
    """The loss of each batch, with its graph.

    Raises:
        InvalidDataset: there are no samples, or a loss is NaN or infinite; the samples are named.
    """
    labels = ctx.samples["train"].labels
    loss = None
    if labels is not None:
        output = output_read(params.output, [entry["name"] for entry in model.outputs], "output")
        loss = labelled_loss(params.loss, model, output, {"dtype": labels[0], "shape": list(labels[1])})
    size = 1 if params.importance == "hessian" else params.batch_size
    generator = torch.Generator().manual_seed(ctx.seed)
    for batch in drawn(model.inputs, ctx, size, params.samples, device, "estimating what channels are worth"):
        found = _loss_of(model, loss, batch, generator)
        if not isfinite(float(found.detach())):
            raise InvalidDataset(
                f"the loss of samples {batch.indices.tolist()[:5]} is {float(found.detach())}",
                stage=STAGE,
                param="inputs.train",
                hint="remove samples with NaN or infinity, or look for a fault in their preprocessing",
            )
        yield found


def _loss_of(model: TorchModel, loss: Loss | None, batch: Batch, generator: torch.Generator) -> Tensor:
    """Against the labels; without any, the outputs along a random direction: the mean square of its gradients tells how much
    the outputs change, as each output's own scale has it."""
    outputs = dict(
        zip([entry["name"] for entry in model.outputs], leaves(model.module(*batch.inputs)), strict=True)
    )
    if loss is not None:
        assert batch.labels is not None
        return loss(outputs[loss.output], batch.labels, batch.indices)
    parts = []
    for value in outputs.values():
        if value.is_floating_point():
            direction = torch.randn(value.shape, generator=generator).to(value.device)
            scale = value.detach().float().square().mean().sqrt().clamp_min(1e-12)
            parts.append((value.float() * direction).sum() / scale / len(value))
    if not parts:
        raise IncompatibleRecipe(
            "no output of the network holds floating-point numbers, from which gradients come",
            stage=STAGE,
            param="importance",
            hint="use an importance that needs no data, as magnitude-l2",
        )
    return torch.stack(parts).sum()


def over_costs(scores: Scores, coupling: Coupling, costs: Mapping[str, int]) -> Scores:
    """What units are worth for what they cost; `costs` tells what each layer costs. For a share of a cost, those units go first
    that lose least for what they save (Aflalo et al., Knapsack Pruning with Inner Distillation, 2020,
    https://arxiv.org/abs/2002.08258).
    """
    sums = _Sums(coupling)
    for reading, sets in coupling.readings():
        if reading.role != "norm" and reading.attribute == "weight":
            share = costs.get(reading.layer, 0) / len(sets)
            sums.add(sets, torch.full((len(sets),), share, dtype=torch.float64))
    saved = dict(zip(coupling.units, sums.total.tolist(), strict=True))
    return {unit: score / max(saved[unit], 1.0) for unit, score in scores.items()}


def _check_silent(coupling: Coupling, silent: set[str], importance: str) -> None:
    """Raises IncompatibleRecipe where layers that could lose channels got no gradient."""
    units = set(coupling.units)
    found = sorted(
        name for name in silent if name in coupling.layers and units & set(coupling.layers[name].tolist())
    )
    if found:
        raise IncompatibleRecipe(
            f"no gradient reaches {some(found)}, so {importance} cannot tell what their channels are worth",
            stage=STAGE,
            node=found[0],
            param="importance",
            hint="name an output that depends on them (`output`), leave them out (`ignore`), or use magnitude-l2",
        )


def _layers_of(coupling: Coupling, units: set[int]) -> list[str]:
    return [name for name, sets in coupling.layers.items() if units & set(sets.tolist())]
