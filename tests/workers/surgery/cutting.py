"""Networks lifted from programs, cut at random units, and counted as ONNX."""

import copy
import random
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from workers.formats.flops import count_flops
from workers.surgery.channels import Coupling, couple
from workers.surgery.cut import cut
from workers.torch.lift import lift
from workers.torch.model import TorchModel, example_inputs
from workers.torch.program import export
from workers.torch.to_onnx import program_to_onnx


def lifted(network: nn.Module, *shape: int, dtype: str = "float32", count: int = 1) -> TorchModel:
    """A network of `count` inputs of one shape, exported with a free batch and lifted; its outputs are `y0`, `y1` …"""
    inputs = tuple(
        {"name": f"x{number}", "dtype": dtype, "shape": ["batch", *shape]} for number in range(count)
    )
    with torch.no_grad():
        found = network.eval()(*example_inputs(inputs))
    values = [found] if isinstance(found, Tensor) else list(found)
    outputs = tuple(
        {"name": f"y{number}", "dtype": "float32", "shape": ["batch", *value.shape[1:]]}
        for number, value in enumerate(values)
    )
    return TorchModel(lift(export(TorchModel(network, inputs, outputs))), inputs, outputs)


def without(model: TorchModel, coupling: Coupling, units: list[int]) -> TorchModel:
    """A copy without some units."""
    twin = copy.deepcopy(model.module)
    assert isinstance(twin, fx.GraphModule)
    cut(twin, coupling, units)
    return TorchModel(twin, model.inputs, model.outputs)


def some_units(coupling: Coupling, share: float, seed: int) -> list[int]:
    """Units drawn at random, of which every layer and every part keeps some."""
    draw = random.Random(seed)
    chosen: set[int] = set()
    for unit in draw.sample(coupling.units, round(share * len(coupling.units))):
        wanted = chosen | {unit}
        if all(set(sets.tolist()) - wanted for sets in coupling.guarded):
            chosen = wanted
    return sorted(chosen)


def silenced(model: TorchModel, coupling: Coupling, units: list[int]) -> TorchModel:
    """A copy in which every layer reads zeros where units that go stood: what is left must compute the same."""
    twin = copy.deepcopy(model.module)
    gone = torch.tensor(units)
    with torch.no_grad():
        for reading, sets in coupling.readings():
            if reading.role == "in":
                weight = getattr(twin.get_submodule(reading.layer), reading.attribute)
                weight.index_fill_(reading.axis, torch.isin(sets, gone).nonzero()[:, 0], 0)
    return TorchModel(twin, model.inputs, model.outputs)


def answers(model: TorchModel, seed: int = 0) -> list[Tensor]:
    with torch.no_grad():
        found = model.module(*example_inputs(model.inputs, seed))
    return [found] if isinstance(found, Tensor) else list(found)


def units_of(coupling: Coupling, layer: str) -> int:
    """In how many units the channels of a layer can go."""
    return len(set(coupling.layers[layer].tolist()) - {0})


def onnx_flops(model: TorchModel, folder: Path) -> int:
    """The operations of the exported ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = program_to_onnx(export(model), model.inputs, model.outputs, folder)
    count, unknown = count_flops(handle.load_onnx())
    assert not unknown
    return count


def coupled(network: nn.Module, *shape: int, dtype: str = "float32") -> tuple[TorchModel, Coupling]:
    """A network, lifted, and the coupling of its channels."""
    torch.manual_seed(0)
    model = lifted(network, *shape, dtype=dtype)
    return model, couple(model)
