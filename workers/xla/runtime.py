"""What the runtimes `xla-cpu` and `xla-tpu` have in common."""

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.distributions import versions_of
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.runtimes import conditions
from workers.runtimes.base import Coverage, Engine, LoadedEngine, unnamed
from workers.xla import files
from workers.xla.devices import start
from workers.xla.loaded import LoadedXla

OTHER = "use another target: torch-inductor-cpu takes every exported program"


class XlaRuntime:
    """See `base.Runtime`."""

    name: str  # in the catalog
    platforms: tuple[str, ...]  # that programs are lowered for, the engine's own first

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Lower the program, and hold what was written against it on XLA's CPU.

        Facts: those of `torch.facts.program_facts`, and `platforms`.

        Raises:
            UnsupportedOperator: see `xla.lower.lower`; or what JAX made of it gives other values.
            InvalidModel, Unavailable: the program cannot be read, JAX is not installed.
        """
        from workers.torch.facts import program_facts
        from workers.torch.inductor import prove
        from workers.torch.program import load_program
        from workers.xla.lower import lower

        threads = self._threads(params)
        start(self.platforms[0], threads)
        program = load_program(model.path)
        lowered = lower(program, self.platforms, getattr(params, "matmul_precision", None))
        files.write(lowered, program.inputs, program.outputs, out)
        prove(program, LoadedXla(out / files.ENTRY, "cpu", threads), OTHER)
        facts = program_facts(program.program)
        facts |= {"platforms": list(self.platforms), "explained": self._explained(facts, program.inputs)}
        return Engine(out, files.ENTRY, facts)

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine on its device. Raises as `LoadedXla`."""
        return LoadedXla(engine.path, self.platforms[0], self._threads(params))

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, inputs, conditions}."""
        version, device = self.versions()["jax"], self.platforms[0]
        return {
            "runtime": "jax",
            "version": version,
            "device": device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "inputs": unnamed(files.signature(engine.path)["inputs"]),
            "conditions": conditions.listed(conditions.stablehlo(version, device)),
        }

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(RUNTIMES[self.name].packages)

    def coverage(self, model: ModelHandle) -> Coverage:
        """What torchax has JAX functions for, of the program in core operators; a function may still refuse its arguments."""
        from workers.torch.program import load_program
        from workers.xla.lower import calls, decompose, uncovered

        program = decompose(load_program(model.path))
        return Coverage(sum(1 for _ in calls(program)), uncovered(program), "parsed")

    def self_test(self) -> None:
        """Lower a program of one operator, and run it on XLA's CPU."""
        from workers.xla.relu import ENTRY, relu

        self.versions()
        threads = usable_processors()
        start("cpu", threads)
        with tempfile.TemporaryDirectory() as folder:
            files.write(
                relu(self.platforms), [{"name": "x", **ENTRY}], [{"name": "y", **ENTRY}], Path(folder)
            )
            loaded = LoadedXla(Path(folder) / files.ENTRY, "cpu", threads)
            found = loaded.run({"x": np.array([[-1.0, 2.0]], dtype=np.float32)})
        if found["y"].tolist() != [[0.0, 2.0]]:
            raise RuntimeError(f"relu of [-1, 2] came out as {found['y'].tolist()}")

    def _threads(self, params: Params) -> int:
        return getattr(params, "threads", 0) or usable_processors()

    def _explained(self, facts: Mapping[str, Any], inputs: Any) -> list[str]:
        sentences = []
        free = [dim for entry in inputs for dim in entry["shape"] if not isinstance(dim, int)]
        if free:
            sentences.append(
                "XLA compiles for fixed shapes: the first run of each new size takes seconds, and data of many sizes as often."
            )
        if (count := sum(facts["convolutions"].values())) and self.platforms[0] == "cpu":
            sentences.append(
                f"XLA has plain kernels for {count} convolutions on CPUs: PyTorch's, of oneDNN, are faster."
            )
        if count := facts["unfused"]["count"]:
            sentences.append(
                f"{count} quantized layers compute in floating point, and pay for converting their inputs besides."
            )
        return sentences
