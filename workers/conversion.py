"""A model becomes another format, and is held against what it was: the same seeded inputs, run by both."""

from pathlib import Path
from typing import Any

from app.errors import BurnishError, InvalidModel, SignatureMismatch
from workers.formats import registry
from workers.formats.base import OpenedModel, Source
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import synthetic_samples
from workers.verify import first_difference, follow

STAGE = "converting"
SAMPLES = 4
PROGRAM = "model.pt2"


def open_model(model: ModelHandle) -> OpenedModel:
    """A model, opened by its format. Raises as `formats.base.Format.open`."""
    return registry.get(model.format).open(Source(model.root, model.entry, model.declared))


def convert(opened: OpenedModel, to: str, out: Path, seed: int = 0) -> tuple[ModelHandle, dict[str, Any]]:
    """An opened model as `to` (onnx, torch-export) in the empty folder `out`, and how closely it follows.

    The facts: `checked` (whether both ran), `outputs` {name: see `OutputFidelity.result`}, `reason` where the model
    itself does not run on inputs that were generated to fit its signature, so that nothing could be compared.

    Raises:
        UnsupportedOperator, InvalidModel: it cannot be converted, or what it became gives other outputs.
    """
    try:
        made = _WAYS[to](opened, out)
        return made, compare(opened, open_model(made), to, seed)
    except BurnishError as error:
        error.stage = error.stage or STAGE
        raise


def compare(source: OpenedModel, converted: OpenedModel, to: str, seed: int) -> dict[str, Any]:
    """See `convert`. Raises InvalidModel where the outputs differ by more than rounding."""
    try:
        samples = synthetic_samples({"inputs": source.inputs}, seed, SAMPLES)
    except SignatureMismatch as error:
        return {"checked": False, "reason": error.detail, "outputs": {}}
    fidelity, reason = follow(source, converted, samples)
    if reason is not None:
        return {
            "checked": False,
            "reason": f"the model does not run on generated inputs: {reason}",
            "outputs": {},
        }
    if (found := first_difference(fidelity)) is not None:
        name, difference = found
        raise InvalidModel(
            f"converted to {to}, the model gives other values of {name!r}: {difference}",
            stage=STAGE,
            node=name,
            hint="export the model to ONNX yourself, where you can compare, and upload that",
        )
    return {"checked": True, "outputs": fidelity.result()["outputs"]}


def _onnx(opened: OpenedModel, out: Path) -> ModelHandle:
    return opened.to_onnx(out)


def _program(opened: OpenedModel, out: Path) -> ModelHandle:
    from workers.torch.program import export, save_program

    model = opened.to_torch()
    save_program(export(model), model.inputs, model.outputs, out / PROGRAM)
    return ModelHandle(out, PROGRAM, "torch-export", tree_digest(out))


_WAYS = {"onnx": _onnx, "torch-export": _program}
