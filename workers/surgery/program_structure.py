"""The structure report of an exported program, by the layers that surgery passes work on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import fx, nn

from workers.surgery.counting import LayerCount, layers, shapes_only
from workers.surgery.savings import Weight
from workers.surgery.structure import Row, report
from workers.torch.lift import lift
from workers.torch.program import load_program

SOURCE = "program"


def of_program(path: Path) -> dict[str, Any]:
    """The report of a `.pt2`; its weights are not copied.

    Raises: see `load_program`, `lift` and `counting.layers`.
    """
    program = load_program(path)
    with shapes_only():
        network = lift(program.program)
    assert isinstance(network, fx.GraphModule)
    return report(rows(network, layers(network, program.inputs)), SOURCE)


def rows(network: fx.GraphModule, counts: list[LayerCount]) -> Iterator[Row]:
    """The rows of a lifted network's layers."""
    held = dict(network.named_modules())
    for one in counts:
        yield Row(one.name, one.kind, one.parameters, one.flops, one.output, _weight(held.get(one.name)))


def _weight(module: nn.Module | None) -> Weight | None:
    bias = getattr(module, "bias", None)
    size = bias.numel() if isinstance(bias, nn.Parameter) else 0
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return Weight(tuple(module.weight.shape), True, module.groups, size)
    if isinstance(module, nn.Linear):
        return Weight(tuple(module.weight.shape), False, bias=size)
    return None
