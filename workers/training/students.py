"""Networks of the pytorchcv package, made to take the images that another network takes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.errors import BurnishError, IncompatibleRecipe, InvalidParams
from app.text import first_line, plain
from workers.torch import zoo
from workers.torch.lift import lift
from workers.torch.model import TorchModel, leaves
from workers.torch.program import export, load_program, save_program
from workers.training.losses import last_operator
from workers.training.task import STAGE

PARAM = "student"
LEAST_POINTS = 4  # of a picture's shorter side behind the last halving
OWN_SIZE = (224, 224)  # of networks that do not tell theirs
HINT = "name another network of the package, or leave `student` out: then the network as the recipe has it learns"
Entry = Mapping[str, Any]  # name, dtype, shape


def write_student(name: str, source: Path, target: Path, seed: int) -> None:
    """Write a program with a zoo network of random weights that has the signature of the program at `source`.

    Its output is made a softmax or a sigmoid where the source's is.

    Raises:
        IncompatibleRecipe: the source does not tell classes of images apart.
        InvalidParams: there is no such network, or it cannot be fitted.
    """
    program = load_program(source)
    _check_classifier(program.inputs, program.outputs)
    end = last_operator(lift(program.program), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = fitted(name, program.inputs[0]["shape"][1:], program.outputs[0]["shape"][1])
    last = {"softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}.get(end or "")
    if last is not None:
        network = nn.Sequential(network, last).eval()
    student = TorchModel(network, program.inputs, program.outputs)
    try:
        save_program(export(student), student.inputs, student.outputs, target)
    except BurnishError as error:
        raise _refusal(name, error.detail) from error


def fitted(name: str, image: Sequence[int], classes: int) -> nn.Module:
    """A network for images [channels, height, width], with random weights, in eval mode; see `DistillParams` for what is changed.

    Raises:
        InvalidParams: there is no such network, or it does not take such images.
    """
    try:
        found = zoo.parse(name)
        asked = {"in_channels": image[0], "num_classes": classes, **found.arguments}
        network = zoo.Architecture(found.name, asked).build()
    except InvalidParams as error:
        error.stage, error.param = STAGE, PARAM
        if error.hint == zoo.FORM:
            error.hint = zoo.FORM.replace("`architecture`", "`student`")
        raise
    try:
        with torch.no_grad():
            _take_small(network, image)
            made = leaves(network(torch.zeros(2, *image)))
    except (RuntimeError, ValueError, TypeError, AssertionError, BurnishError) as error:
        told = plain(first_line(str(error)) or type(error).__name__, 300)
        raise _refusal(name, f"it does not run on images {list(image)}: {told}") from error
    if [tuple(one.shape) for one in made] != [(2, classes)]:
        told = ", ".join(str(list(one.shape[1:])) for one in made)
        raise _refusal(name, f"it gives {told} a sample, not {classes} classes")
    return network


def _check_classifier(inputs: Sequence[Entry], outputs: Sequence[Entry]) -> None:
    sizes = [
        len(entry["shape"]) == rank
        and entry["dtype"] == "float32"
        and all(isinstance(size, int) for size in entry["shape"][1:])
        for entry, rank in ((inputs[0], 4), (outputs[0], 2))
    ]
    if len(inputs) == len(outputs) == 1 and all(sizes):
        return
    told = [
        ", ".join(f"{one['name']!r} {one['dtype']} {list(one['shape'])}" for one in side)
        for side in (inputs, outputs)
    ]
    raise IncompatibleRecipe(
        f"a network of the zoo tells classes of images apart; this one takes {told[0]} and gives {told[1]}",
        stage=STAGE,
        param=PARAM,
        hint="a zoo student needs one float32 input [n, channels, height, width] and one float32 output [n, classes], all but n "
        "numbers; leave `student` out: then the network as the recipe has it learns",
    )


def _take_small(network: nn.Module, image: Sequence[int]) -> None:
    """Undo the first halvings of the picture where too little of it would be left, and let the last pooling take any size."""
    own = tuple(getattr(network, "in_size", OWN_SIZE))
    halvings, last = _halvings(network, (image[0], *own))
    for pool in last:
        _replace(network, pool, nn.AdaptiveAvgPool2d(1))
    side, factor = min(image[1:]), 2 ** len(halvings)
    for layers in halvings:
        if ceil(side / factor) >= LEAST_POINTS:
            return
        factor //= 2
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
            else:
                _replace(network, layer, nn.Identity())


def _halvings(network: nn.Module, image: Sequence[int]) -> tuple[list[list[nn.Module]], list[nn.Module]]:
    """The layers that make pictures smaller by their strides, those together that get pictures of one size, the largest first;
    and the poolings that take all that is left of a picture."""
    found: dict[int, list[nn.Module]] = defaultdict(list)
    last: list[nn.Module] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        before, after = inputs[0].shape[2:], output.shape[2:]
        if isinstance(module, nn.AvgPool2d) and tuple(after) == (1, 1):
            last.append(module)
        elif after[0] < before[0] and _stride(module) > 1:
            found[before[0]].append(module)

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [module.register_forward_hook(look) for module in network.modules() if isinstance(module, kinds)]
    try:
        network(torch.zeros(1, *image))
    finally:
        for hook in hooks:
            hook.remove()
    return [found[size] for size in sorted(found, reverse=True)], last


def _stride(module: nn.Module) -> int:
    stride: Any = module.stride
    return int(stride[0] if isinstance(stride, tuple) else stride)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in network.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)


def _refusal(name: str, why: str) -> InvalidParams:
    return InvalidParams(
        f"the student {plain(name, 200)!r} cannot be fitted: {why}", stage=STAGE, param=PARAM, hint=HINT
    )
