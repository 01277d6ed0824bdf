"""What a TorchScript module's `forward` takes, and the signature that its uploader declared for it.

A schema tells names and kinds, no shapes and no dtypes: https://docs.pytorch.org/docs/stable/jit_language_reference.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from app.errors import InvalidModel, SignatureMismatch
from app.text import plain
from workers.torch.model import dtype_name
from workers.torch.script_audit import nodes_of
from workers.torch.script_file import Script

PARAM = "signature"
_TENSORS = ("Tensor", "Optional[Tensor]")
_SCALARS = {"int": ("int64", "int32"), "float": ("float32", "float64"), "bool": ("bool",)}
_DTYPES = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
_PICTURE = 224
# layers, and where among their inputs their weight is
_LAYERS = {
    "aten::embedding": 0, "aten::linear": 1, "aten::lstm": 2, "aten::gru": 2, "aten::conv1d": 1, "aten::conv2d": 1,
    "aten::conv3d": 1, "aten::_convolution": 1,
}  # fmt: skip
_SEQUENCES = ("aten::lstm", "aten::gru")
_GROUPS = {"aten::conv1d": 6, "aten::conv2d": 6, "aten::conv3d": 6, "aten::_convolution": 8}
_SAME_SHAPE = {
    "aten::to", "aten::contiguous", "aten::sub", "aten::add", "aten::mul", "aten::div", "aten::relu", "aten::clone",
    "aten::detach", "aten::dropout", "aten::float", "aten::clamp",
}  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """One argument of `forward`: a tensor, or a number (`int`, `float`, `bool`), perhaps with a default."""

    name: str
    kind: str
    optional: bool


def arguments(script: Script) -> list[Argument]:
    """The arguments of `forward` without `self`.

    Raises:
        InvalidModel: there are none, or one must be given that is neither tensor nor number.
    """
    found = []
    for argument in script.module.forward.schema.arguments[1:]:
        kind, optional = str(argument.type), bool(argument.has_default_value())
        if kind in _TENSORS or kind in _SCALARS:
            found.append(Argument(argument.name, kind, optional))
        elif not optional:
            raise InvalidModel(
                f"argument {argument.name!r} of `forward` is a {plain(kind, 100)}, neither tensor nor number",
                param=argument.name,
                hint="wrap the network in a module whose `forward` takes tensors, and script that",
            )
    if not found:
        raise InvalidModel(
            "`forward` of the TorchScript takes nothing", hint="save the network, not its result"
        )
    return found


def declared_inputs(
    script: Script, taken: Sequence[Argument], declared: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """The inputs that the uploader declared, in the order of `forward`.

    Raises:
        SignatureMismatch: there are none, or they are not what `forward` takes; the hint shows the form for this module.
    """
    given = (declared.get("signature") or {}).get("inputs") or []
    if not given:
        raise _mismatch(
            f"TorchScript does not tell the types and shapes of its inputs, here {_listed(taken)}: declare them",
            script,
        )
    by_name = {entry["name"]: entry for entry in given}
    known = [argument.name for argument in taken]
    if len(by_name) < len(given):
        raise _mismatch("an input was declared twice", script)
    if unknown := sorted(by_name.keys() - set(known)):
        raise _mismatch(
            f"the declared {unknown[0]!r} is no argument of `forward`, which takes {_listed(taken)}", script
        )
    missing = [argument.name for argument in taken if not argument.optional and argument.name not in by_name]
    if missing:
        raise _mismatch(
            f"`forward` needs {', '.join(map(repr, missing))} too, which was not declared", script
        )
    for argument in taken:
        if (entry := by_name.get(argument.name)) is not None:
            _check(argument, entry, script)
    return tuple(
        {**by_name[name], "shape": list(by_name[name]["shape"])} for name in known if name in by_name
    )


def example(script: Script) -> str:
    """The form in which the inputs of this module are declared, as options of the command line."""
    taken, layers = arguments(script), _first_layers(script)
    return " ".join(
        f"--signature {argument.name}:{_guess(argument, layers.get(argument.name))}"
        for argument in taken
        if not argument.optional
    )


def does_not_run(script: Script, detail: str) -> SignatureMismatch:
    """The error for a signature with which the module fails."""
    return _mismatch(detail, script)


def _mismatch(detail: str, script: Script) -> SignatureMismatch:
    return SignatureMismatch(
        detail,
        param=PARAM,
        hint="declare each input as NAME:DTYPE:DIM,DIM…, where a name is a free dimension and the batch comes first, for "
        f"example {example(script)}; with the sizes and types that your network takes",
    )


def _listed(taken: Sequence[Argument]) -> str:
    return ", ".join(
        f"{one.name!r} ({one.kind}{', may be left out' if one.optional else ''})" for one in taken
    )


def _check(argument: Argument, entry: Mapping[str, Any], script: Script) -> None:
    name, dtype, shape = argument.name, entry["dtype"], list(entry["shape"])
    if argument.kind in _SCALARS:
        if dtype not in _SCALARS[argument.kind] or shape:
            wanted = f"{name}:{_SCALARS[argument.kind][0]}:"
            raise _mismatch(
                f"{name!r} is a number ({argument.kind}) in `forward`: declare it without dimensions, as {wanted}; "
                f"given was {dtype} {shape}",
                script,
            )
    elif dtype not in _DTYPES:
        raise _mismatch(f"the dtype {dtype!r} of {name!r} is none of {', '.join(_DTYPES)}", script)
    if any(isinstance(dim, int) and dim < 1 for dim in shape):
        raise _mismatch(f"a dimension of {name!r} is less than 1: {shape}", script)


def _guess(argument: Argument, use: Any) -> str:
    """Dtype and shape by the first layer that takes the argument, where one is found."""
    if argument.kind in _SCALARS:
        return f"{_SCALARS[argument.kind][0]}:"
    weight = _weight(use) if use is not None else None
    if weight is None:
        return f"float32:batch,3,{_PICTURE},{_PICTURE}"
    dtype, sizes, layer = dtype_name(weight.dtype), weight.shape, use.kind()
    if layer == "aten::embedding":
        return "int64:batch,sequence"
    if layer in _SEQUENCES:
        return f"{dtype}:batch,sequence,{sizes[1]}"
    if layer == "aten::linear":
        return f"{dtype}:batch,{sizes[1]}"
    groups = list(use.inputs())[_GROUPS[layer]].toIValue() or 1
    space = ["time"] if len(sizes) == 3 else [str(_PICTURE)] * (len(sizes) - 2)
    return f"{dtype}:{','.join(['batch', str(sizes[1] * groups), *space])}"


def _first_layers(script: Script) -> dict[str, Any]:
    """The layer that first takes each argument, as it is or after arithmetic, by the argument's name."""
    names = [argument.name for argument in script.module.forward.schema.arguments]
    sources = {value.debugName(): name for value, name in zip(script.graph.inputs(), names, strict=True)}
    found: dict[str, Any] = {}
    layers = []
    for node in nodes_of(script.graph):
        if node.kind() in _LAYERS:
            layers.append(node)
        inputs = list(node.inputs())
        place = 1 if node.kind() == "aten::embedding" else 0
        name = sources.get(inputs[place].debugName()) if len(inputs) > place else None
        if name is None:
            continue
        if node.kind() in _SAME_SHAPE:
            sources.update({value.debugName(): name for value in node.outputs()})
        elif node.kind() in _LAYERS:
            found.setdefault(name, node)
    if len(names) == 2 and layers:  # `self` and one more: all comes from that, by whatever way
        found.setdefault(names[1], layers[0])
    return found


def _weight(layer: Any) -> torch.Tensor | None:
    held = list(layer.inputs())[_LAYERS[layer.kind()]].toIValue()
    first = held[0] if isinstance(held, list) and held else held
    return first if isinstance(first, torch.Tensor) else None
