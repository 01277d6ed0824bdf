"""PyTorch in eager mode on an NVIDIA GPU, by the code of `torch_eager`."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.runtime_params.torch import TorchEagerCudaParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import BurnishError, UnsupportedOperator
from app.text import first_line
from workers.distributions import versions_of
from workers.formats.base import OpenedModel
from workers.model_handle import ModelHandle
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.torch_eager import ENTRY, LoadedEager, TorchEager, facts, lay_out, opened

SPEC = RUNTIMES["torch-eager-cuda"]


@implements(SPEC.name)
class TorchEagerCuda:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Lay the model's files out as for CPUs, and run it once on the GPU: not every model can go there.

        Facts: those of `torch_eager.facts`, and `compute_capability`.

        Raises:
            Unavailable: there is no GPU that PyTorch can use.
            UnsupportedOperator: the model does not run there.
            BurnishError: as the format's `open`.
        """
        from workers.torch.cuda import capability, precise

        assert isinstance(params, TorchEagerCudaParams)
        found = capability()
        precise(tf32=params.tf32)
        _try(_on_gpu(lay_out(model, out)))
        return Engine(out, ENTRY, {**facts(model), "compute_capability": found})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The model on the GPU. Raises Unavailable, and as the format's `open`."""
        from workers.torch.cuda import capability, precise

        assert isinstance(params, TorchEagerCudaParams)
        capability()
        precise(tf32=params.tf32)
        return LoadedEager(_on_gpu(opened(engine)))

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, conditions, inputs}."""
        return {
            "runtime": "torch",
            "version": self.versions()["torch"],
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "conditions": conditions.listed(
                conditions.torch_program(self.versions()["torch"], engine.facts["compute_capability"])
            ),
            "inputs": self.load(engine, params).inputs,
        }

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)

    def coverage(self, model: ModelHandle) -> Coverage:
        """As on CPUs."""
        return TorchEager().coverage(model)

    def self_test(self) -> None:
        """PyTorch computes on the GPU."""
        import torch

        from workers.torch.cuda import capability

        capability()
        if torch.relu(torch.tensor([-1.0, 2.0], device="cuda")).tolist() != [0.0, 2.0]:
            raise RuntimeError("relu of [-1, 2] came out wrong")


def _on_gpu(model: OpenedModel) -> OpenedModel:
    move = getattr(model, "move", None)
    if move is None:
        raise UnsupportedOperator(
            "models of this format are run on the CPU alone",
            stage="building",
            hint="upload it as a `.pt2` or as ONNX",
        )
    move(SPEC.device)
    return model


def _try(model: OpenedModel) -> None:
    from workers.torch.model import example_inputs, to_array

    feeds = {
        entry["name"]: to_array(tensor)
        for entry, tensor in zip(model.inputs, example_inputs(model.inputs), strict=True)
    }
    try:
        model.run(feeds)
    except (BurnishError, RuntimeError) as error:
        raise UnsupportedOperator(
            f"the model does not run on the GPU: {first_line(str(error))}"[:500],
            stage="building",
            hint="it may name the device of the CPU itself; onnxruntime-cuda runs the model as ONNX",
        ) from error
