"""The pass `cast-torch`: exported programs in half precision."""

from app.catalog.pass_params.torch import CastTorchParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

SPEC = PASSES["cast-torch"]
ENTRY = "model.pt2"


@implements(SPEC.name)
def apply(model: ModelHandle, params: CastTorchParams, ctx: PassContext) -> ModelHandle:
    """Cast weights and arithmetic, and export again with the same signature.

    Facts: `cast` (elements of weights), `clamped` (those beyond 65504).

    Raises:
        UnsupportedOperator, InvalidModel: see `torch.cast.cast_program`.
    """
    import torch

    from workers.torch.cast import cast_program
    from workers.torch.noise import quiet
    from workers.torch.program import load_program, save_program

    program = load_program(model.path)
    dtype = torch.float16 if params.dtype == "fp16" else torch.bfloat16
    with quiet():
        exported, told = cast_program(program, dtype)
    ctx.facts.update(told)
    if told["clamped"]:
        ctx.warn(
            f"{told['clamped']} weights lie beyond 65504, the largest number of half precision, and were clamped"
        )
    save_program(exported, program.inputs, program.outputs, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))
