"""A model becomes another format, and is held against what it was: the same seeded inputs, run by both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import BurnishError, InvalidModel, SignatureMismatch
from workers.formats import registry
from workers.formats.base import OpenedModel, Source
from workers.measure.fidelity import Fidelity
from workers.measure.side_by_side import run_side_by_side
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import synthetic_samples

STAGE = "converting"
SAMPLES = 4
LEAST_SQNR_DB = 40.0  # below, a conversion is no conversion: rounding alone leaves 100 and more in fp32
LEAST_AGREEMENT = 0.999  # of integers and truth values
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
    fidelity = Fidelity()
    try:
        samples = synthetic_samples({"inputs": source.inputs}, seed, SAMPLES)
    except SignatureMismatch as error:
        return {"checked": False, "reason": error.detail, "outputs": {}}
    try:
        for run in run_side_by_side(_Named(source), converted, samples):
            fidelity.observe(run)
    except _OwnFailure as failure:
        return {"checked": False, "reason": failure.cause, "outputs": {}}
    outputs = fidelity.result()["outputs"]
    for name, found in outputs.items():
        if _differs(found) or fidelity.outputs[name].misshapen:
            raise InvalidModel(
                f"converted to {to}, the model gives other values of {name!r}: signal-to-noise ratio "
                f"{found['sqnr_db']} dB, largest difference {found['max_abs']}",
                stage=STAGE,
                node=name,
                hint="export the model to ONNX yourself, where you can compare, and upload that",
            )
    return {"checked": True, "outputs": outputs}


class _OwnFailure(Exception):
    """The source itself does not run on generated inputs."""

    def __init__(self, cause: str):
        self.cause = cause


class _Named:
    """The source, whose failures are told from those of what it became."""

    def __init__(self, opened: OpenedModel):
        self._opened = opened
        self.inputs, self.outputs = opened.inputs, opened.outputs

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._opened.run(feeds)
        except Exception as error:
            detail = error.detail if isinstance(error, BurnishError) else f"{type(error).__name__}: {error}"
            raise _OwnFailure(f"the model does not run on generated inputs: {detail[:500]}") from error


def _differs(found: Mapping[str, Any]) -> bool:
    if found["nonfinite_mismatches"]:
        return True
    if found["exact_agreement"] is not None:
        return bool(found["exact_agreement"] < LEAST_AGREEMENT)
    return found["sqnr_db"] is not None and found["sqnr_db"] < LEAST_SQNR_DB


def _onnx(opened: OpenedModel, out: Path) -> ModelHandle:
    return opened.to_onnx(out)


def _program(opened: OpenedModel, out: Path) -> ModelHandle:
    from workers.torch.program import export, save_program

    model = opened.to_torch()
    save_program(export(model), model.inputs, model.outputs, out / PROGRAM)
    return ModelHandle(out, PROGRAM, "torch-export", tree_digest(out))


_WAYS = {"onnx": _onnx, "torch-export": _program}
