"""The signature of an exported program that says none itself: names, dtypes and shapes from its placeholders and trees."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import TreeSpec

from app.errors import InvalidModel
from workers.torch.model import dtype_name


def program_inputs(program: ExportedProgram) -> tuple[dict[str, Any], ...]:
    """{name, dtype, shape} of each tensor that the program takes, keyword arguments after the others.

    A free dimension is torch's symbol for it (`s31`). Inputs that are constants (`None`, a number) are no inputs.

    Raises:
        InvalidModel: an input is a number that is not fixed, or an object.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return tuple(
        _entry(name, values[name], "input")
        for name in program.graph_signature.user_inputs
        if isinstance(name, str)
    )


def program_outputs(program: ExportedProgram) -> tuple[dict[str, Any], ...]:
    """{name, dtype, shape} of each tensor that the program gives, named by its place in what the network returns.

    Raises:
        InvalidModel: an output is a number, or an object; or there is none.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = output_names(program.call_spec.out_spec)
    found = tuple(
        _entry(name, values[value], "output")
        for name, value in zip(names, program.graph_signature.user_outputs, strict=True)
        if isinstance(value, str)
    )
    if not found:
        raise InvalidModel("the program returns no tensor", hint="return a tensor, a tuple or a dict of them")
    return found


def output_names(tree: TreeSpec) -> list[str]:
    """A name for each leaf of a tree: keys of dicts, numbers of tuples; `output` for a single value."""
    names: list[str] = []
    for path in _paths(tree):
        name = "_".join(path)
        if not path or path[0].isdigit():
            name = f"output_{name}" if path else "output"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _paths(tree: TreeSpec) -> Iterator[tuple[str, ...]]:
    if tree.is_leaf():
        yield ()
        return
    children = tree.children()
    for key, child in zip(_keys(tree, len(children)), children, strict=True):
        for rest in _paths(child):
            yield (key, *rest)


def _keys(tree: TreeSpec, count: int) -> list[str]:
    """Keys of a dict (and of the outputs of transformers, whose context they are too), fields of a named tuple, else numbers."""
    fields = getattr(tree.context, "_fields", tree.context)
    if (
        isinstance(fields, list | tuple)
        and len(fields) == count
        and all(isinstance(key, str) for key in fields)
    ):
        return list(fields)
    return [str(number) for number in range(count)]


def _entry(name: str, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, torch.Tensor):
        raise InvalidModel(
            f"{what} {name!r} of the program is a {type(value).__name__}, no tensor",
            param=name,
            hint="wrap the network so that it takes and gives tensors",
        )
    shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    return {"name": name, "dtype": dtype_name(value.dtype), "shape": shape}
