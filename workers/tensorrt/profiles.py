"""Optimization profiles: held against the model's inputs before anything is built, as a library tells of a bad one late.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from app.catalog.runtime_params.tensorrt import ShapeRange, TensorRtParams, TensorRtRtxParams
from app.errors import InvalidParams, UnsupportedOperator

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]  # min, opt, max
Params = TensorRtParams | TensorRtRtxParams
STAGE = "building"
OPT_LENGTH = 128  # of a free dimension other than the first, where no profile says


def resolve(params: Params, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Range]]:
    """The profiles for inputs [{name, shape}], free dimensions None: one entry an input with such; [] where there is none.

    Raises:
        InvalidParams: a profile names an input that is not there, or shapes that the model does not take; `param` says
            which profile and input, the text which dimension.
    """
    by_name = {entry["name"]: entry for entry in inputs}
    for number, profile in enumerate(params.profiles):
        for name, given in profile.inputs.items():
            at = f"profiles[{number}].inputs.{name}"
            if name not in by_name:
                raise _no_such_input(name, by_name, at)
            _check(name, given, by_name[name]["shape"], at)
    free = [entry for entry in inputs if None in entry["shape"]]
    if not free:
        return []
    wanted: Sequence[Mapping[str, ShapeRange]] = [profile.inputs for profile in params.profiles] or [{}]
    return [
        {entry["name"]: _range(profile.get(entry["name"]), entry["shape"], params) for entry in free}
        for profile in wanted
    ]


def default_range(shape: Sequence[int | None], params: Params) -> Range:
    """Batches of 1 to `max_batch`, kernels chosen for 1; other free dimensions of 1 to `max_length`, chosen for 128 or less."""
    low: list[int] = []
    best: list[int] = []
    high: list[int] = []
    for index, dim in enumerate(shape):
        if dim is not None:
            for values in (low, best, high):
                values.append(dim)
            continue
        largest = params.max_batch if index == 0 else params.max_length
        low.append(1)
        best.append(1 if index == 0 else min(OPT_LENGTH, largest))
        high.append(largest)
    return tuple(low), tuple(best), tuple(high)


def _range(given: ShapeRange | None, shape: Sequence[int | None], params: Params) -> Range:
    return default_range(shape, params) if given is None else (given.min, given.opt, given.max)


def network_inputs(network: Any) -> list[dict[str, Any]]:
    """The inputs of a network [{name, shape}], free dimensions None.

    Raises:
        UnsupportedOperator: an input's values decide shapes, which a profile of shapes does not bound.
    """
    found = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise UnsupportedOperator(
                f"the values of the input {tensor.name!r} decide shapes inside the model",
                stage=STAGE,
                node=tensor.name,
                hint="export the model with these values as constants",
            )
        found.append({"name": tensor.name, "shape": [None if dim < 0 else int(dim) for dim in tensor.shape]})
    return found


def _check(name: str, given: ShapeRange, shape: Sequence[int | None], at: str) -> None:
    if len(given.min) != len(shape):
        raise InvalidParams(
            f"the profile gives {name!r} {len(given.min)} dimensions, and the model's input has {len(shape)}: {_shown(shape)}",
            stage=STAGE,
            param=at,
        )
    for bound in ("min", "opt", "max"):
        for index, (dim, value) in enumerate(zip(shape, getattr(given, bound), strict=True)):
            if dim is not None and dim != value:
                raise InvalidParams(
                    f"dimension {index} of {name!r} is {dim} in the model, and {value} in the profile's {bound}",
                    stage=STAGE,
                    param=f"{at}.{bound}[{index}]",
                    hint=f"the model takes {_shown(shape)}: only free dimensions can differ",
                )


def _no_such_input(name: str, known: Mapping[str, Any], at: str) -> InvalidParams:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return InvalidParams(
        f"the profile names an input {name!r}, which the model does not have",
        stage=STAGE,
        param=at,
        hint=f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}",
    )


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
