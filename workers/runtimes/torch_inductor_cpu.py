"""AOTInductor on CPUs: the engine is a `.pt2` package of compiled code with the weights in it."""

import platform
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.catalog.runtime_params.torch import TorchInductorParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.distributions import versions_of
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.cpu_features import cpu_features

SPEC = RUNTIMES["torch-inductor-cpu"]
ENTRY = "engine.pt2"
SOURCE = '#include <omp.h>\n#include <vector>\nextern "C" int threads() { return omp_get_max_threads(); }\n'


@implements(SPEC.name)
class TorchInductorCpu:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Compile the program. Facts: those of `torch.inductor_facts.compiled_facts`, and `threads`.

        Raises:
            UnsupportedOperator, InvalidModel, Unavailable, OutOfMemory: see `torch.inductor.compile_program`.
        """
        from workers.torch.inductor import compile_program
        from workers.torch.program import load_program

        assert isinstance(params, TorchInductorParams)
        threads = params.threads or usable_processors()
        facts = compile_program(
            load_program(model.path),
            out / ENTRY,
            device=SPEC.device,
            threads=threads,
            freezing=params.freezing,
            max_autotune=params.max_autotune,
        )
        return Engine(out, ENTRY, {**facts, "threads": threads})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory. Raises InvalidModel where it was compiled for another number of threads."""
        from workers.torch.inductor import load_package

        assert isinstance(params, TorchInductorParams)
        return load_package(engine.path, params.threads)

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, threads, inputs, conditions}.

        `cpu_features` must all be there: the compiler was told to use what this processor has. `threads` are those that
        the code was made for.
        """
        return {
            "runtime": "torch",
            "version": self.versions()["torch"],
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": cpu_features(),
            "threads": engine.facts["threads"],
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(
                conditions.compiled_code(self.versions()["torch"], engine.facts["threads"], None)
            ),
        }

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)

    def coverage(self, model: ModelHandle) -> Coverage:
        """All of it: what Inductor has no code for runs as in eager PyTorch. Raises as `torch.program.load_program`."""
        from workers.torch.facts import program_facts
        from workers.torch.program import load_program

        return Coverage(program_facts(load_program(model.path).program)["nodes"], [])

    def self_test(self) -> None:
        """PyTorch is installed, and the compiler makes a library that uses threads. A network would take half a minute."""
        from workers.compiler import compiler_command

        self.versions()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "try.cpp"
            source.write_text(SOURCE)
            flags = ["-std=c++20", "-fopenmp", "-shared", "-fPIC", "-o", str(source.with_suffix(".so"))]
            subprocess.run([compiler_command(), *flags, str(source)], check=True)
