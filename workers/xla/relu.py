"""A program of one operator, for self-tests: torchax, JAX's export and XLA all take part, and no tracing by torch."""

from collections.abc import Sequence

import torch

from workers.xla.devices import library
from workers.xla.lower import Lowered, jax_function

ENTRY = {"dtype": "float32", "shape": [1, 2]}


def relu(platforms: Sequence[str]) -> Lowered:
    """relu of [1, 2]."""
    jax = library()
    function = jax_function(torch.ops.aten.relu.default)
    assert function is not None
    given = [jax.ShapeDtypeStruct(ENTRY["shape"], ENTRY["dtype"])]
    exported = jax.export.export(
        jax.jit(lambda weights, inputs: [function(*inputs)]), platforms=list(platforms)
    )
    return Lowered(bytes(exported([], given).serialize()), {})
