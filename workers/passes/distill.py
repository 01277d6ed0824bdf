"""The pass `distill`: a network trained on what another one answers."""

import tempfile
from pathlib import Path

from app.catalog.pass_params.distill import DistillParams
from app.catalog.passes import PASSES
from app.errors import InvalidParams
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

SPEC = PASSES["distill"]
ENTRY = "model.pt2"


@implements(SPEC.name)
def apply(model: ModelHandle, params: DistillParams, ctx: PassContext) -> ModelHandle:
    """Train, and export the network with its new weights, or the zoo's in its place, with the signature as it was. Beside it:
    scalars for TensorBoard.

    Facts: `training`, see `training.report.TrainingReport`; the parts of its losses are `soft`, `hard`, `features`.

    Raises:
        InvalidParams, InvalidDataset, SignatureMismatch, InvalidModel, IncompatibleRecipe, UnsupportedOperator, OutOfMemory:
            see `training.rank.train`, `training.tasks.distill.build`, `training.students.write_student`.
    """
    from workers.training.network import save_trained
    from workers.training.passing import train_in_pass
    from workers.training.students import write_student
    from workers.training.teachers import describe_teacher

    if ctx.teacher is None:
        raise InvalidParams(
            "there is no teacher",
            param="inputs.teacher",
            hint="name a model or an artifact: {'inputs': {'teacher': 'mdl_…'}}",
        )
    with tempfile.TemporaryDirectory(dir=ctx.work) as folder:
        student = model
        if params.student is not None:
            write_student(params.student, model.path, Path(folder) / ENTRY, ctx.seed)
            student = ModelHandle(Path(folder), ENTRY, model.format, tree_digest(Path(folder)))
        teacher = describe_teacher(ctx.teacher)
        with train_in_pass(SPEC.name, student, params, ctx, teacher=teacher) as weights:
            save_trained(student.path, weights, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))
