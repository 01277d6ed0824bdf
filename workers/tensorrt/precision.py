"""Which GPUs a model's number types need: told before a build, which would fail as a whole."""

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from app.errors import InvalidParams
from workers.onnx_files import graphs

_FP8 = frozenset(
    (
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
    )
)
LEAST = {"FP8": 89, "BF16": 80}  # compute capability, ten times
MAKERS = {"FP8": "quantize-fp8", "BF16": "to-bf16"}


def types_of(model: onnx.ModelProto) -> set[str]:
    """Of FP8 and BF16, those that weights, declared values or casts of a model have."""
    found = set()
    for graph in graphs(model.graph):
        kinds = {tensor.data_type for tensor in graph.initializer}
        kinds |= {
            value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)
        }
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "output_dtype"):
                    kinds.add(attribute.i)
                elif attribute.type == onnx.AttributeProto.TENSOR:
                    kinds.add(attribute.t.data_type)
        if kinds & _FP8:
            found.add("FP8")
        if TensorProto.BFLOAT16 in kinds:
            found.add("BF16")
    return found


def check(model: onnx.ModelProto, capabilities: Sequence[int]) -> None:
    """Hold a model's types against the GPUs that an engine is for; nothing is checked where none is named.

    Raises:
        InvalidParams: a GPU has no instructions for a type.
    """
    for kind in sorted(types_of(model)):
        if too_old := [one for one in capabilities if one < LEAST[kind]]:
            named = ", ".join(f"sm{one}" for one in too_old)
            raise InvalidParams(
                f"the model computes in {kind}, which {named} has no instructions for",
                stage="building",
                param="compute_capabilities",
                hint=f"build for sm{LEAST[kind]} and later alone, or leave out what makes the model {kind} "
                f"({MAKERS[kind]} in the recipe)",
            )
