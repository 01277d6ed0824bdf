"""The pass `qat`: trained in 8 bits, as quantization will compute (quantization-aware training)."""

from typing import TYPE_CHECKING

from app.catalog.pass_params.qat import QatParams
from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.onnx_nodes import outcome
from workers.passes import implements
from workers.passes.quantize_static import COUNTED, quantized_nodes

if TYPE_CHECKING:
    from workers.training.fake_quant_prepare import Prepared

SPEC = PASSES["qat"]


@implements(SPEC.name)
def apply(model: ModelHandle, params: QatParams, ctx: PassContext) -> ModelHandle:
    """Quantize as `quantize-static` does, train with what that rounds rounded, and quantize the trained network in the same way.

    Calibrated on the samples `calibration`, or those of `train` where there are none.

    Facts: `quantized` and `left_out` (see `onnx_nodes.outcome`), `calibration` ({samples, method, tensors, synthetic}), `folded`
    (batch norms that became part of the weights before them), `training` (see `training.report.TrainingReport`).

    Raises:
        IncompatibleRecipe: nothing would be computed in 8 bits.
        InvalidParams, InvalidDataset, SignatureMismatch, InvalidModel, UnsupportedOperator: see
            `fake_quant_prepare.prepare_training`.
        SignatureMismatch, OutOfMemory: see `training.rank.train`.
    """
    from workers.training.fake_quant_finish import finish
    from workers.training.fake_quant_prepare import prepare_training
    from workers.training.passing import folder, train_in_pass

    samples = ctx.samples.get("calibration", ctx.samples["train"])
    with folder(ctx) as work:
        prepared = prepare_training(model, params, samples, work, ctx, SPEC.name)
        _tell(prepared, samples, params, ctx)
        _check_gain(ctx)
        with train_in_pass(SPEC.name, model, params, ctx, extra=prepared.plan.told()) as weights:
            return finish(prepared, weights, params, model, ctx)


def _tell(prepared: "Prepared", samples: Samples, params: QatParams, ctx: PassContext) -> None:
    taken = quantized_nodes(prepared.quantized)
    ctx.facts.update(
        outcome(
            prepared.folded,
            COUNTED,
            is_left=lambda node: node.name not in taken,
            reason=lambda node: prepared.form.reason(node, prepared.folded),
        )
    )
    ctx.facts["folded"] = len(prepared.plan.folds)
    ctx.facts["calibration"] = {
        "samples": min(samples.count, params.samples or samples.count),
        "method": params.method,
        "tensors": len(prepared.form.tensors),
        "synthetic": samples.synthetic,
    }


def _check_gain(ctx: PassContext) -> None:
    if ctx.facts["quantized"]:
        return
    left = [f"{entry['count']} {entry['operator']} ({entry['reason']})" for entry in ctx.facts["left_out"]]
    raise IncompatibleRecipe(
        "the network has no convolution or matrix product that would compute in 8 bits"
        + (f"; left as they are: {', '.join(left)}" if left else ""),
        stage=SPEC.name,
        hint=f"leave {SPEC.name} out of the recipe"
        + (", or exclude less" if any("excluded" in text for text in left) else ""),
    )
