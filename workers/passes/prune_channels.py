"""The pass `prune-channels`: channels that matter least are removed, with all that hangs on them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.catalog.passes import PASSES
from app.measurements.compare import Interval
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

if TYPE_CHECKING:
    from workers.torch.model import TorchModel

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
    from workers.surgery.prune import prune
    from workers.surgery.written import check, write
    from workers.torch.lift import lift
    from workers.torch.model import TorchModel
    from workers.torch.program import load_program
    from workers.training.passing import folder

    program = load_program(model.path)
    given = TorchModel(lift(program.program), program.inputs, program.outputs)
    with folder(ctx) as work:
        pruned = prune(given, params, ctx, _timing(ctx, work))
        write(pruned, ctx.out / ENTRY)
    check(pruned, ctx.out / ENTRY, SPEC.name)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))


def _timing(ctx: PassContext, work: Path) -> "Callable[[TorchModel], Interval] | None":
    """How a candidate is timed on the job's target, where the pass is given one."""
    from workers.surgery.written import write

    timing = ctx.timing
    if timing is None:
        return None
    count = 0

    def time(candidate: "TorchModel") -> Interval:
        nonlocal count
        count += 1
        out = work / f"candidate{count}"
        out.mkdir()
        write(candidate, out / ENTRY)
        return timing.share(ModelHandle(out, ENTRY, "torch-export", tree_digest(out)))

    return time
