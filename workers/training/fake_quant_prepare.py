"""From a program to what is trained in 8 bits: as ONNX, calibrated, with a plan of what is rounded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from pydantic import TypeAdapter

from app.catalog.pass_params.qat import QatParams
from workers.calibration import collect_ranges
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.onnx_nodes import LISTED
from workers.onnx_prepare import prepare
from workers.quantize_for_tensorrt import LATER_OPSET, LEAST_OPSET
from workers.torch.exporting import export
from workers.torch.to_onnx import program_to_onnx
from workers.training.fake_quant_forms import Form, form_of
from workers.training.fake_quant_graph import Fold, Layout, folded, folds_of, layout_of, own_vectors
from workers.training.fake_quant_network import FakeQuantized, Held, build_network
from workers.training.network import open_network


@dataclass(frozen=True)
class Plan:
    """What every process needs beside the ONNX file `network`, as JSON; `inputs` and `outputs` are the signature, any batch."""

    network: Path
    folds: list[Fold]
    layout: Layout
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def told(self) -> dict[str, Any]:
        """For `TrainingJob.extra`."""
        found: dict[str, Any] = TypeAdapter(Plan).dump_python(self, mode="json")
        return found

    @staticmethod
    def of(told: Mapping[str, Any]) -> "Plan":
        """What `told` gave."""
        return TypeAdapter(Plan).validate_python(dict(told))

    def load(self) -> onnx.ModelProto:
        """The network in floating point, with its batch norms."""
        return ModelHandle(self.network.parent, self.network.name, "onnx", "").load_onnx()

    def build(self, params: QatParams) -> tuple[FakeQuantized, dict[str, Held]]:
        """The network that is trained, see `build_network`."""
        return build_network(self.load(), self.folds, self.layout, params.range_mode)


@dataclass(frozen=True)
class Prepared:
    """The network before training: folded in floating point, and quantized by calibrated `ranges` as `quantize-static` does it."""

    plan: Plan
    form: Form
    folded: onnx.ModelProto
    quantized: onnx.ModelProto


def prepare_training(
    model: ModelHandle, params: QatParams, samples: Samples, work: Path, ctx: PassContext, stage: str
) -> Prepared:
    """Bring a `.pt2` to ONNX, fold, calibrate, quantize, and see what is quantized.

    What of the network cannot be trained in this way is warned of.

    Raises:
        InvalidParams, IncompatibleRecipe: see `form_of`.
        InvalidDataset: calibration gives NaN or infinity, or has no samples.
        SignatureMismatch: its samples do not fit the network.
        InvalidModel, UnsupportedOperator: the program does not go to ONNX.
    """
    opened = open_network(model.path)
    exported = program_to_onnx(
        export(opened), opened.inputs, opened.outputs, work / "exported", keep_batch_norms=True
    )
    least = LATER_OPSET if params.rest == "fp16" else LEAST_OPSET
    network = prepare(exported.load_onnx(), stage, least_opset=least)
    own_vectors(network.graph)
    folds = folds_of(network.graph)
    flat = prepare(folded(network, folds), stage, least_opset=least)
    form = form_of(flat, params, stage)
    ranges = collect_ranges(flat, samples, form.plan, ctx.report)
    quantized = form.quantize(flat, ranges)
    layout = layout_of(flat.graph, quantized.graph, symmetric=form.symmetric)
    path = save_onnx(network, work / "network").path
    plan = Plan(path, folds, layout, list(opened.inputs), list(opened.outputs))
    _tell_untrained(plan.build(params)[0], ctx)
    return Prepared(plan, form, flat, quantized)


def _tell_untrained(network: FakeQuantized, ctx: PassContext) -> None:
    left = [
        (name.removeprefix("inner."), one.numel())
        for name, one in network.named_parameters()
        if not one.requires_grad
    ]
    if left:
        names = ", ".join(name for name, _ in left[:LISTED]) + (", …" if len(left) > LISTED else "")
        ctx.warn(
            f"{sum(count for _, count in left):,} weights stay as they are: ONNX stores them in another form than they train in "
            f"({names})"
        )
