"""AOTInductor on NVIDIA GPUs, by the code of `torch_inductor_cpu`."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.runtime_params.torch import TorchInductorCudaParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
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
        from workers.torch.cuda import capability, precise
        from workers.torch.inductor import compile_program
        from workers.torch.program import load_program

        assert isinstance(params, TorchInductorCudaParams)
        found = capability()
        precise(tf32=params.tf32)
        facts = compile_program(
            load_program(model.path),
            out / ENTRY,
            device=SPEC.device,
            threads=usable_processors(),
            freezing=params.freezing,
            max_autotune=params.max_autotune,
        )
        return Engine(out, ENTRY, {**facts, "hardware_layout": False, "compute_capability": found})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory. Raises Unavailable, InvalidModel where this machine cannot load it."""
        from workers.torch.cuda import capability, precise
        from workers.torch.inductor import load_package

        assert isinstance(params, TorchInductorCudaParams)
        capability()
        precise(tf32=params.tf32)
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

    def self_test(self) -> None:
        """PyTorch computes on the GPU, and Inductor's own compiler is there. A network would take half a minute."""
        from torch.utils._triton import has_triton

        from workers.runtimes.torch_eager_cuda import TorchEagerCuda

        self.versions()
        TorchEagerCuda().self_test()
        if not has_triton():
            raise RuntimeError("Inductor needs Triton, which is not installed or knows no GPU here")
