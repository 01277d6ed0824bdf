"""Which GPUs a model's number types need: told before a build, which would fail as a whole."""

from collections.abc import Sequence

import onnx

from app.errors import InvalidParams
from workers.float_types import narrow_floats

LEAST = {"FP8": 89, "BF16": 80}  # compute capability, ten times
MAKERS = {"FP8": "quantize-fp8", "BF16": "to-bf16"}


def check(model: onnx.ModelProto, capabilities: Sequence[int]) -> None:
    """Hold a model's types against the GPUs that an engine is for; nothing is checked where none is named.

    Raises:
        InvalidParams: a GPU has no instructions for a type.
    """
    for kind in sorted(narrow_floats(model)):
        if too_old := [one for one in capabilities if one < LEAST[kind]]:
            named = ", ".join(f"sm{one}" for one in too_old)
            raise InvalidParams(
                f"the model computes in {kind}, which {named} has no instructions for",
                stage="building",
                param="compute_capabilities",
                hint=f"build for sm{LEAST[kind]} and later alone, or leave out what makes the model {kind} "
                f"({MAKERS[kind]} in the recipe)",
            )
