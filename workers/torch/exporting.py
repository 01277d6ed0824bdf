"""`torch.export` for a signature with free dimensions, and what torch says against it in a sentence.

Every free dimension is exported as `Dim.DYNAMIC`: a named `Dim` must hold for every size, which no convolution without
padding does (its guards say `size - 4 != 1`). DYNAMIC in turn reports as free what a guard pins down in another way
(`4*(h - 2)*(w - 2) == 784`), so each dimension is tried at a second size before the program is given away.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from app.errors import BurnishError, InvalidModel, UnsupportedOperator
from app.text import first_line, plain
from workers.samples import FREE_DIMENSION
from workers.torch.model import TorchModel, example_inputs, free_dimensions, label, sizes
from workers.torch.noise import quiet
from workers.torch.place import source_of
from workers.torch.recurrent import recurrent_whole

# tried in turn for free dimensions behind the first, until the network runs
LENGTHS = (FREE_DIMENSION, 224, 16, 5, 2)
STAGE = "exporting"
NUMBER_HINT = "declare it as a number"
_SPECIALIZED = re.compile(
    r"You marked (?P<source>\S.*?) as dynamic but your code specialized it to be a constant \((?P<size>\d+)\)"
)
_LONGEST = 400  # characters of a reason
_FEW = 3  # a bound this low comes from a branch on the size, not from a table of positions


def export(model: TorchModel) -> ExportedProgram:
    """The network as a program, with the free dimensions of its inputs free.

    Raises:
        InvalidModel: the network does not run on inputs that fit its signature, or fixes a dimension that was declared free.
        UnsupportedOperator: torch cannot export something in it; `node` says where.
    """
    chosen = sizes_that_run(model)
    program = _export(model, chosen)
    free = free_dimensions(model.inputs)
    held = program.module() if free else None
    for name, places in free.items():
        first: InvalidModel | None = None
        for size in _other_sizes(program, model, chosen, name, places):
            try:
                _run_with(held, model, chosen, name, size, places[0])
                break
            except InvalidModel as refusal:
                first = first or refusal
        else:
            assert first is not None
            raise first
    return program


def sizes_that_run(model: TorchModel) -> dict[str, int]:
    """Sizes of the free dimensions at which the network runs, for `example_inputs`.

    Raises:
        InvalidModel: it runs at none that were tried.
    """
    first: Exception | None = None
    for length in LENGTHS:
        chosen = sizes(model.inputs, 2, length)
        try:
            with torch.no_grad(), _unchanged(model.module):
                model.module(*example_inputs(model.inputs, dims=chosen))
            return chosen
        except BurnishError:
            raise
        except Exception as error:  # a network may raise anything
            first = first or error
        if not any(size >= length for size in chosen.values()):
            break
    raise InvalidModel(
        f"the network does not run on inputs that fit its signature: {_sentence(first)}",
        stage=STAGE,
        hint="check dtypes and shapes of the signature against what the network takes, and give dimensions that must be equal one name",
    ) from first


def _export(model: TorchModel, chosen: dict[str, int]) -> ExportedProgram:
    args = example_inputs(model.inputs, dims=chosen)
    shapes = [
        {axis: Dim.DYNAMIC for axis, dim in enumerate(entry["shape"]) if not isinstance(dim, int)} or None
        for entry in model.inputs
    ]
    try:
        with quiet(), recurrent_whole():
            return torch.export.export(
                model.module, args, dynamic_shapes=tuple(_like_arguments(model.module, shapes))
            )
    except Exception as error:  # torch raises errors of many kinds here, Python's own among them
        raise _explain(error, model) from error


def _like_arguments(module: torch.nn.Module, values: Sequence[Any]) -> list[Any]:
    """Values in order of the inputs, those that `forward(*args)` collects in a tuple of their own."""
    taken: list[Any] = list(values)
    parameters = inspect.signature(module.forward).parameters.values()
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return [*taken[:position], tuple(taken[position:])]
    return taken


def _sources(model: TorchModel) -> dict[str, str]:
    """What torch calls the inputs in its messages (`L['x']`) to their names."""
    found: dict[str, str] = {}
    names = [entry["name"] for entry in model.inputs]
    parameters = list(inspect.signature(model.module.forward).parameters.values())
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = names[position:]
            found |= {f"L['{parameter.name}'][{index}]": name for index, name in enumerate(rest)}
        elif position < len(names):
            found[f"L['{parameter.name}']"] = names[position]
    return found


def _explain(error: Exception, model: TorchModel) -> BurnishError:
    text = str(error)
    if "Constraints violated" in text:
        found = _SPECIALIZED.search(text)
        reason = (
            f"the network works with {found['source']} = {found['size']} alone" if found else _bullet(text)
        )
        return _not_free(_in_words(reason, model), model)
    return UnsupportedOperator(
        f"torch cannot export the network: {_sentence(error)}",
        stage=STAGE,
        node=source_of(text),
        hint="rewrite that line so that it does not depend on the values of tensors, or upload the network as TorchScript or ONNX",
    )


def _input_shapes(program: ExportedProgram, model: TorchModel) -> dict[str, tuple[Any, ...]]:
    given = set(program.graph_signature.user_inputs)
    values = [
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in given
    ]
    return {entry["name"]: tuple(value.shape) for entry, value in zip(model.inputs, values, strict=True)}


def _other_sizes(
    program: ExportedProgram,
    model: TorchModel,
    chosen: dict[str, int],
    name: str,
    places: list[tuple[str, int]],
) -> list[int]:
    """Twice the size that a free dimension was exported with, then half of it: at one of them it must run.

    Half alone where torch knows a bound. It knows none where a table is read at positions that are computed from the data.

    Raises:
        InvalidModel: the bound is so low that the dimension is not free.
    """
    entry, axis = places[0]
    symbol = _input_shapes(program, model)[entry][axis].node.expr
    bounds = program.range_constraints.get(symbol)
    double, half = chosen[name] * 2, chosen[name] // 2
    if bounds is None or bounds.upper >= double:
        return [double, half] if half > 1 else [double]
    if bounds.upper <= _FEW:
        reason = (
            f"the network as exported works with at most {bounds.upper} as {_dimension(entry, axis, name)}"
        )
        raise _not_free(reason, model, entry)
    return [half]


def _run_with(
    held: Any, model: TorchModel, chosen: dict[str, int], name: str, size: int, place: tuple[str, int]
) -> None:
    """Run the program with one free dimension of another size.

    Raises:
        InvalidModel: it does not run: the dimension is not free.
    """
    entry, axis = place
    args = example_inputs(model.inputs, dims={**chosen, name: size})
    try:
        with torch.no_grad(), _unchanged(held):
            held(*args)
    except Exception as error:
        tried = f"{_dimension(entry, axis, name)} = {size}"
        reason = _in_words(
            f"the network as exported with size {chosen[name]} does not run with {tried}: {_sentence(error)}",
            model,
        )
        raise _not_free(reason, model, entry) from error


@contextmanager
def _unchanged(module: torch.nn.Module) -> Iterator[None]:
    """Leave the module's buffers as they are: some networks keep a state in them."""
    before = [
        (buffer, buffer._version, buffer.detach().clone())
        for buffer in module.buffers()
        if not buffer.is_inference()
    ]
    try:
        yield
    finally:
        for buffer, version, value in before:
            if buffer._version != version:
                buffer.copy_(value)


def _not_free(reason: str, model: TorchModel, entry: str | None = None) -> InvalidModel:
    named = entry or next(
        (item["name"] for item in model.inputs if f"input {item['name']!r}" in reason), None
    )
    return InvalidModel(
        f"a dimension that was declared free is not: {reason}", stage=STAGE, param=named, hint=NUMBER_HINT
    )


def _dimension(entry: str, axis: int, name: str) -> str:
    called = "" if name == label(None, axis) else f" ({name!r})"
    return f"dimension {axis}{called} of input {entry!r}"


def _in_words(text: str, model: TorchModel) -> str:
    """torch's `L['x'].size()[2]` as "dimension 2 ('height') of input 'x'"."""
    shapes = {entry["name"]: entry["shape"] for entry in model.inputs}
    for source, name in _sources(model).items():
        plainer = re.sub(r"\W+", "_", source[3:-1].replace("']", "")).strip("_")
        for spelled in (source, plainer):
            text = re.sub(
                rf"(?<![\w'\]]){re.escape(spelled)}\.size\(\)\[(\d+)\]",
                lambda found, name=name: _dimension(  # type: ignore[misc]
                    name, int(found[1]), label(shapes[name][int(found[1])], int(found[1]))
                ),
                text,
            )
    return text


def _bullet(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip().startswith("- ")), text)
    return line.strip().removeprefix("- ")[:_LONGEST]


def _sentence(error: Exception | None) -> str:
    """The first line of an error's text that says something."""
    return plain(f"{type(error).__name__}: {first_line(str(error))}"[:_LONGEST])
