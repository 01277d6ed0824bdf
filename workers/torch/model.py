"""A PyTorch network with the signature that it is used by, and inputs that fit a signature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from app.errors import InvalidModel
from workers.samples import FREE_DIMENSION, is_batched, synthetic_samples

EXPORT_HINT = "export the network again where you trust it: torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')"
Entry = Mapping[str, Any]  # name, dtype (numpy's name), shape; a free dimension is its name, or None


@dataclass(frozen=True)
class TorchModel:
    """A network in eval mode. It takes tensors by position in the order of `inputs` and returns a tensor, or a tree of them."""

    module: torch.nn.Module
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]


def free_dimensions(inputs: Sequence[Entry]) -> dict[str, list[tuple[str, int]]]:
    """By name: the (input, axis) where each free dimension stands. One without a name is called after its axis: `axis 0`."""
    found: dict[str, list[tuple[str, int]]] = {}
    for entry in inputs:
        for axis, dim in enumerate(entry["shape"]):
            if not isinstance(dim, int):
                found.setdefault(label(dim, axis), []).append((entry["name"], axis))
    return found


def label(dim: str | None, axis: int) -> str:
    """What a free dimension is called: networks that leave it without a name mostly mean the same by the same axis."""
    return f"axis {axis}" if dim is None else dim


def sizes(inputs: Sequence[Entry], batch: int, length: int) -> dict[str, int]:
    """A size for each free dimension: `batch` on first axes and where it is called so, elsewhere `length` and up.

    Names that differ get sizes that differ, so that nothing takes them for equal.
    """
    chosen: dict[str, int] = {}
    for name, places in free_dimensions(inputs).items():
        first = any(axis == 0 for _, axis in places) or "batch" in name.lower()
        size = batch if first else length
        while size in chosen.values():
            size += 1
        chosen[name] = size
    return chosen


def example_inputs(
    inputs: Sequence[Entry], seed: int = 0, free: int = 2, dims: Mapping[str, int] | None = None
) -> tuple[torch.Tensor, ...]:
    """Seeded inputs that fit, with values like those of `synthetic_samples`.

    A free dimension is what `dims` says for its name; else `free` on first axes and `2 * FREE_DIMENSION // free` elsewhere,
    one more for each further name. So all of them change with `free`, and by default fit most networks.

    Raises:
        SignatureMismatch: an input's dtype cannot be generated.
    """
    chosen = sizes(inputs, free, 2 * FREE_DIMENSION // free) | dict(dims or {})
    concrete: list[Mapping[str, Any]] = [
        {
            **entry,
            "shape": [
                dim if isinstance(dim, int) else chosen[label(dim, axis)]
                for axis, dim in enumerate(entry["shape"])
            ],
        }
        for entry in inputs
    ]
    batched = is_batched(concrete)
    count = concrete[0]["shape"][0] if batched else 1
    feeds, _ = next(synthetic_samples({"inputs": concrete}, seed, count).batches(count))
    return tuple(to_tensor(feeds[entry["name"]] if batched else feeds[entry["name"]][0]) for entry in inputs)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor with an array's values, which it may share. numpy's bfloat16 (of ml_dtypes) is taken too."""
    held = np.asarray(array)
    if not held.flags.c_contiguous or not held.flags.writeable:
        held = held.copy()
    if held.dtype.name == "bfloat16":
        return torch.from_numpy(held.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(held)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The array with a tensor's values."""
    held = tensor.detach().cpu().contiguous()
    if held.dtype == torch.bfloat16:
        import ml_dtypes

        return held.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    values: np.ndarray = held.numpy()
    return values


def dtype_name(dtype: torch.dtype) -> str:
    """numpy's name of a torch type."""
    return str(dtype).removeprefix("torch.")


def leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors of what a network returned, in order; `None` and numbers are no outputs.

    Raises:
        InvalidModel: there is none.
    """
    found = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    if not found:
        raise InvalidModel("the network returns no tensor", hint="return a tensor, a tuple or a dict of them")
    return found
