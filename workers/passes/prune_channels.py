"""The pass `prune-channels`: channels that matter least are removed, with all that hangs on them."""

from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

SPEC = PASSES["prune-channels"]
ENTRY = "model.pt2"


@implements(SPEC.name)
def apply(model: ModelHandle, params: PruneChannelsParams, ctx: PassContext) -> ModelHandle:
    """Prune, and export the network anew with the signature that it had. What was written is run beside what was pruned.

    Facts: see `surgery.prune.prune`.

    Raises:
        InvalidParams, IncompatibleRecipe, InvalidDataset, SignatureMismatch, InvalidModel, UnsupportedOperator: see there, and
            `torch.lift.lift`.
    """
    from workers.surgery.clock import clock
    from workers.surgery.prune import prune
    from workers.surgery.written import check, write
    from workers.torch.lift import lift
    from workers.torch.model import TorchModel
    from workers.torch.program import load_program
    from workers.training.passing import folder

    program = load_program(model.path)
    given = TorchModel(lift(program.program), program.inputs, program.outputs)
    with folder(ctx) as work:
        pruned = prune(given, params, ctx, clock(ctx, work))
        write(pruned, ctx.out / ENTRY)
    check(pruned, ctx.out / ENTRY, SPEC.name)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))
