"""The pass `prune-channels`: channels that matter least are removed, with all that hangs on them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.catalog.passes import PASSES
from app.errors import InvalidModel
from app.measurements.compare import Interval
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

if TYPE_CHECKING:
    from torch import nn

    from workers.torch.model import TorchModel

SPEC = PASSES["prune-channels"]
ENTRY = "model.pt2"
TOLERANCE = 1e-3  # of the largest number of an output: a program adds in another order


@implements(SPEC.name)
def apply(model: ModelHandle, params: PruneChannelsParams, ctx: PassContext) -> ModelHandle:
    """Prune, and export the network anew with the signature that it had. What was written is run beside what was pruned.

    Facts: see `surgery.prune.prune`.

    Raises:
        InvalidParams, IncompatibleRecipe, InvalidDataset, SignatureMismatch, InvalidModel, UnsupportedOperator: see there, and
            `torch.lift.lift`.
    """
    from workers.surgery.prune import prune
    from workers.torch.lift import lift
    from workers.torch.model import TorchModel
    from workers.torch.program import load_program
    from workers.training.passing import folder

    program = load_program(model.path)
    given = TorchModel(lift(program.program), program.inputs, program.outputs)
    with folder(ctx) as work:
        pruned = prune(given, params, ctx, _timing(ctx, work))
        _write(pruned, ctx.out)
    _check(pruned.module, pruned, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))


def _write(model: "TorchModel", out: Path) -> None:
    from workers.torch.program import export, save_program

    save_program(export(model), model.inputs, model.outputs, out / ENTRY)


def _timing(ctx: PassContext, work: Path) -> "Callable[[TorchModel], Interval] | None":
    """How a candidate is timed on the job's target, where the pass is given one."""
    timing = ctx.timing
    if timing is None:
        return None
    count = 0

    def time(candidate: "TorchModel") -> Interval:
        nonlocal count
        count += 1
        out = work / f"candidate{count}"
        out.mkdir()
        _write(candidate, out)
        return timing.share(ModelHandle(out, ENTRY, "torch-export", tree_digest(out)))

    return time


def _check(pruned: "nn.Module", model: "TorchModel", path: Path) -> None:
    """Raises InvalidModel where the written program gives something else than what was pruned."""
    import torch

    from workers.torch.exporting import sizes_that_run
    from workers.torch.model import example_inputs, leaves, to_array
    from workers.torch.program import load_program, runner

    inputs = example_inputs(model.inputs, dims=sizes_that_run(model))
    with torch.no_grad():
        wanted = leaves(pruned(*inputs))
    feeds = {entry["name"]: to_array(value) for entry, value in zip(model.inputs, inputs, strict=True)}
    found: Any = runner(load_program(path))(feeds)
    for entry, value in zip(model.outputs, wanted, strict=True):
        got = torch.from_numpy(found[entry["name"]].copy())
        sizes = [dim for dim in entry["shape"] if isinstance(dim, int)]
        kept = [size for dim, size in zip(entry["shape"], got.shape, strict=True) if isinstance(dim, int)]
        near = TOLERANCE * float(value.abs().max()) if value.numel() else 0.0
        if (
            got.shape != value.shape
            or sizes != kept
            or not torch.allclose(got, value, 0, near, equal_nan=True)
        ):
            raise InvalidModel(
                f"the pruned network gives another {entry['name']!r} after it was written",
                stage=SPEC.name,
                hint="this is a fault of the pass on this model: leave layers out of it (`ignore`), or the pass",
            )
