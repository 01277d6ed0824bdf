"""Inputs and outputs of networks and engines, in numpy's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import SignatureMismatch, UnsupportedOperator

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
Entry = dict[str, Any]


def entry(name: str, dtype: Any, shape: Sequence[int], stage: str) -> Entry:
    """{name, dtype, shape} of a library's tensor, free dimensions None.

    Raises:
        UnsupportedOperator: numpy has no such type.
    """
    if dtype.name not in DTYPES:
        raise UnsupportedOperator(
            f"{name!r} is of type {dtype.name}, which an engine does not exchange with numpy",
            stage=stage,
            node=name,
            hint="cast inside the model, so that its inputs and outputs are of a type that numpy has",
        )
    return {
        "name": name,
        "dtype": DTYPES[dtype.name],
        "shape": [None if dim < 0 else int(dim) for dim in shape],
    }


def network_signature(network: Any) -> dict[str, list[Entry]]:
    """{inputs, outputs} of a network. Raises UnsupportedOperator as `entry`."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {
        "inputs": [entry(one.name, one.dtype, one.shape, "building") for one in inputs],
        "outputs": [entry(one.name, one.dtype, one.shape, "building") for one in outputs],
    }


def check_feeds(inputs: Sequence[Entry], feeds: Mapping[str, np.ndarray]) -> None:
    """Hold feeds against the inputs of an engine.

    Raises:
        SignatureMismatch: names, types or fixed dimensions differ.
    """
    wanted = {one["name"] for one in inputs}
    if set(feeds) != wanted:
        raise SignatureMismatch(
            f"the engine takes {', '.join(sorted(wanted))}, given were {', '.join(sorted(feeds)) or 'no inputs'}",
            stage="running",
        )
    for one in inputs:
        value, shape = np.asarray(feeds[one["name"]]), one["shape"]
        fits = value.ndim == len(shape) and all(
            dim in (None, given) for dim, given in zip(shape, value.shape, strict=True)
        )
        if value.dtype.name != one["dtype"] or not fits:
            raise SignatureMismatch(
                f"input {one['name']!r} takes {one['dtype']} {shape}, given was {value.dtype.name} {list(value.shape)}",
                stage="running",
                param=one["name"],
            )


def fitting_profile(
    profiles: Sequence[Mapping[str, tuple[Sequence[int], Sequence[int]]]],
    shapes: Mapping[str, Sequence[int]],
) -> int:
    """The profile {input: (min, max)} that takes these shapes; of several the one of the smallest largest shapes.

    Raises:
        SignatureMismatch: none takes them; the text says which dimension of which input is too far out.
    """
    fitting = [index for index, profile in enumerate(profiles) if _misfit(profile, shapes) is None]
    if fitting:
        return min(fitting, key=lambda index: _volume(profiles[index]))
    told = [text for profile in profiles if (text := _misfit(profile, shapes)) is not None]
    raise SignatureMismatch(
        f"the engine was built for other shapes: {'; '.join(dict.fromkeys(told))}",
        stage="running",
        hint="build it with a profile that holds these shapes",
    )


def _misfit(
    profile: Mapping[str, tuple[Sequence[int], Sequence[int]]], shapes: Mapping[str, Sequence[int]]
) -> str | None:
    for name, (low, high) in profile.items():
        for index, (least, value, most) in enumerate(zip(low, shapes[name], high, strict=True)):
            if not least <= value <= most:
                return f"dimension {index} of {name!r} is {value}, its profile has {least} to {most}"
    return None


def _volume(profile: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> int:
    return sum(int(np.prod(list(high), dtype=np.int64)) for _, high in profile.values())
