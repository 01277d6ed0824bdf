"""The pass `finetune`: the network trained on labelled data."""

from app.catalog.pass_params.finetune import FinetuneParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

SPEC = PASSES["finetune"]
ENTRY = "model.pt2"


@implements(SPEC.name)
def apply(model: ModelHandle, params: FinetuneParams, ctx: PassContext) -> ModelHandle:
    """Train, and export the network with its new weights, its signature as it was. Beside it: scalars for TensorBoard.

    Facts: `training`, see `training.report.TrainingReport`.

    Raises:
        InvalidParams, InvalidDataset, SignatureMismatch, InvalidModel, IncompatibleRecipe, UnsupportedOperator, OutOfMemory:
            see `training.rank.train`.
    """
    from workers.training.network import save_trained
    from workers.training.passing import train_in_pass

    with train_in_pass(SPEC.name, model, params, ctx) as weights:
        save_trained(model.path, weights, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))
