"""AOTInductor on NVIDIA GPUs, by the code of `torch_inductor_cpu`. Never run: there was no such machine."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.runtime_params.torch import TorchInductorCudaParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import Unavailable
from workers.distributions import versions_of
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine

SPEC = RUNTIMES["torch-inductor-cuda"]
ENTRY = "engine.pt2"


@implements(SPEC.name)
class TorchInductorCuda:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Compile the program. Facts: those of `torch.inductor_facts.compiled_facts`, and `compute_capability`.

        Raises:
            Unavailable: there is no GPU that PyTorch can use.
            UnsupportedOperator, InvalidModel, OutOfMemory: see `torch.inductor.compile_program`.
        """
        from workers.torch.inductor import compile_program
        from workers.torch.program import load_program

        assert isinstance(params, TorchInductorCudaParams)
        capability = _capability()
        facts = compile_program(
            load_program(model.path),
            out / ENTRY,
            device=SPEC.device,
            threads=usable_processors(),
            freezing=params.freezing,
            max_autotune=params.max_autotune,
        )
        return Engine(out, ENTRY, {**facts, "hardware_layout": False, "compute_capability": capability})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory. Raises Unavailable, InvalidModel where this machine cannot load it."""
        from workers.torch.inductor import load_package

        _capability()
        return load_package(engine.path, 0)

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, compute_capability, inputs, conditions, …}."""
        return {
            "runtime": "torch",
            "version": self.versions()["torch"],
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "compute_capability": engine.facts["compute_capability"],
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(
                conditions.compiled_code(self.versions()["torch"], None, engine.facts["compute_capability"])
            ),
        }

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)

    def coverage(self, model: ModelHandle) -> Coverage:
        """As on CPUs. Raises as `torch.program.load_program`."""
        from workers.torch.facts import program_facts
        from workers.torch.program import load_program

        return Coverage(program_facts(load_program(model.path).program)["nodes"], [])


def _capability() -> str:
    """The first GPU's compute capability, as in `8.9`.

    Raises:
        Unavailable: there is no GPU that PyTorch can use.
    """
    import torch

    if not torch.cuda.is_available():
        raise Unavailable(
            "there is no GPU here that PyTorch can use",
            stage="building",
            hint="install a PyTorch for CUDA where workers serve this runtime",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"
