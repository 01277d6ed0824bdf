"""PyTorch in eager mode: the engine is the model itself, with a file that says which format opens it.

It takes exported programs as a target, and any format whose framework is PyTorch as the reference beside an engine.
"""

import contextlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.runtime_params.torch import TorchEagerParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.storage.disk import link_or_copy
from workers import formats
from workers.distributions import versions_of
from workers.formats.base import OpenedModel, Source
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, Feeds, LoadedEngine, unnamed

SPEC = RUNTIMES["torch-eager"]
ENTRY = "engine.json"
MODEL = "model"  # the folder of the model's files, beside the entry
PROGRAM = "torch-export"


class LoadedEager:
    """A model in its own framework, as an engine: its free dimensions are None."""

    def __init__(self, opened: OpenedModel):
        self.opened = opened
        self.inputs = unnamed(opened.inputs)
        self.outputs = unnamed(opened.outputs)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name. Raises SignatureMismatch where the feeds do not fit."""
        return self.opened.run(feeds)


@implements(SPEC.name)
class TorchEager:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Lay the model's files out with what is known of them. The model is opened once, so that a wrong one fails here.

        Facts: those of `torch.facts.program_facts`; of other formats, which are references alone, only their keys.

        Raises:
            BurnishError: as the format's `open`.
        """
        lay_out(model, out)
        return Engine(out, ENTRY, facts(model))

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The model, opened by its format. Raises as the format's `open`."""
        import torch

        assert isinstance(params, TorchEagerParams)
        torch.set_num_threads(params.threads or usable_processors())
        with contextlib.suppress(
            RuntimeError
        ):  # it is for once a process; operators run one after another anyway
            torch.set_num_interop_threads(1)
        return LoadedEager(opened(engine))

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, threads, inputs, conditions}."""
        assert isinstance(params, TorchEagerParams)
        return {
            "runtime": "torch",
            "version": self.versions()["torch"],
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "threads": params.threads or usable_processors(),
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(conditions.torch_program(self.versions()["torch"])),
        }

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)

    def coverage(self, model: ModelHandle) -> Coverage:
        """All of it: a program that loads names no operator that torch lacks. Raises as `torch.program.load_program`."""
        from workers.torch.facts import program_facts
        from workers.torch.program import load_program

        return Coverage(program_facts(load_program(model.path).program)["nodes"], [])

    def self_test(self) -> None:
        """PyTorch can be imported, and computes."""
        import torch

        if torch.relu(torch.tensor([-1.0, 2.0])).tolist() != [0.0, 2.0]:
            raise RuntimeError("relu of [-1, 2] came out wrong")


def lay_out(model: ModelHandle, out: Path) -> OpenedModel:
    """Put the model's files and `ENTRY`, which says how to open them, into `out`; the opened model. Raises as `open`."""
    found = formats.registry.alone(model.format).open(Source(model.root, model.entry, model.declared))
    told = {
        "format": model.format,
        "entry": model.entry,
        "declared": dict(model.declared),
        "inputs": [entry["name"] for entry in found.inputs],
        "outputs": [entry["name"] for entry in found.outputs],
    }
    for file in sorted(path for path in model.root.rglob("*") if path.is_file()):
        target = out / MODEL / file.relative_to(model.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(file, target)
    (out / ENTRY).write_text(json.dumps(told), encoding="utf-8")
    return found


def opened(engine: Engine) -> OpenedModel:
    """The model that an engine of `lay_out` holds. Raises as the format's `open`."""
    told = json.loads(engine.path.read_bytes())
    return formats.registry.alone(told["format"]).open(
        Source(engine.root / MODEL, told["entry"], told["declared"])
    )


def facts(model: ModelHandle) -> dict[str, Any]:
    """Facts of a program as eager PyTorch runs it; of other formats, which are references alone, only their keys."""
    if model.format != PROGRAM:
        return {"explained": []}
    from workers.torch.facts import program_facts
    from workers.torch.program import load_program

    found = program_facts(load_program(model.path).program)
    return {**found, "explained": _explained(found)}


def _explained(facts: Mapping[str, Any]) -> list[str]:
    if not (count := facts["unfused"]["count"]):
        return []
    return [
        f"{count} quantized layers compute in floating point, and pay for converting their inputs besides: eager PyTorch "
        "has no 8-bit kernels for them. The target torch-inductor-cpu does."
    ]
