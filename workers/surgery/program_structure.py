"""The structure report of an exported program, by the layers that surgery passes work on."""

from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from torch import fx, nn

from app.text import first_line
from workers.surgery.branches import Branches
from workers.surgery.channels import couple
from workers.surgery.counting import LayerCount, layers, shapes_only, totals
from workers.surgery.savings import Weight
from workers.surgery.sets import FIXED, distinct
from workers.surgery.structure import Row, report
from workers.torch.lift import lift
from workers.torch.model import TorchModel
from workers.torch.program import Program

log = structlog.get_logger(__name__)

SOURCE = "program"
# larger networks are not run when they are inspected, which finding their channels takes
MOST_PARAMETERS = 100_000_000
MOST_FLOPS = 20_000_000_000


def of_program(program: Program) -> dict[str, Any]:
    """The report of a program; weights of a network that is larger than `MOST_PARAMETERS`, `MOST_FLOPS` are not copied.

    Raises: see `lift` and `counting.layers`.
    """
    with shapes_only():
        network = lift(program.program)
        assert isinstance(network, fx.GraphModule)
        counts = layers(network, program.inputs)
    return report(_rows(network, counts, _channels(program, counts), _branches(network, counts)), SOURCE)


def _rows(
    network: fx.GraphModule,
    counts: list[LayerCount],
    channels: Mapping[str, dict[str, int]],
    branches: Mapping[str, dict[str, Any]],
) -> Iterator[Row]:
    held = dict(network.named_modules())
    for one in counts:
        weight, name = _weight(held.get(one.name)), one.name
        yield Row(
            name,
            one.kind,
            one.parameters,
            one.flops,
            one.output,
            weight,
            channels.get(name),
            branches.get(name),
        )


def _branches(network: fx.GraphModule, counts: list[LayerCount]) -> dict[str, dict[str, Any]]:
    """By layer: the smallest residual `branch` that it is in, and the `flops` and `parameters` that go with that."""
    branches = Branches(network, {one.name: one for one in counts})
    found: dict[str, dict[str, Any]] = {}
    for branch in sorted(branches.found, key=lambda branch: -len(branch.layers)):
        parameters, flops = branches.saved({}, branch)
        told = {"branch": branch.name, "flops": flops, "parameters": parameters}
        found |= dict.fromkeys(branch.layers, told)
    return found


def _channels(program: Program, counts: list[LayerCount]) -> dict[str, dict[str, int]]:
    """By layer: how many `channels` it makes, and in how many `units` `prune-channels` could remove them; 0: none can go."""
    parameters, flops = totals(counts)
    if parameters > MOST_PARAMETERS or flops > MOST_FLOPS:
        return {}
    try:
        found = couple(TorchModel(lift(program.program), program.inputs, program.outputs))
    except Exception as error:  # a network that cannot be run on made inputs, or that the pass will refuse
        log.warning("channels_not_found", error=f"{type(error).__name__}: {first_line(str(error))}")
        return {}
    return {
        name: {"channels": len(sets), "units": len(distinct(sets[sets != FIXED]))}
        for name, sets in found.layers.items()
    }


def _weight(module: nn.Module | None) -> Weight | None:
    bias = getattr(module, "bias", None)
    size = bias.numel() if isinstance(bias, nn.Parameter) else 0
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return Weight(tuple(module.weight.shape), True, module.groups, size)
    if isinstance(module, nn.Linear):
        return Weight(tuple(module.weight.shape), False, bias=size)
    return None
