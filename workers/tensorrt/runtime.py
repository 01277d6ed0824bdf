"""What the runtimes `tensorrt` and `tensorrt-rtx` have in common: all of it, but for the library and its parameters."""

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.compute_capability import dotted, number_of
from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.distributions import versions_of
from workers.gpu import gpus
from workers.memory import Memory
from workers.model_handle import ModelHandle
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.tensorrt import inspect, parse
from workers.tensorrt.build import ENTRY, WEIGHTS_FOLDER, build_plan
from workers.tensorrt.library import library
from workers.tensorrt.loaded import LoadedTensorRt
from workers.tensorrt.network_facts import network_facts
from workers.tensorrt.progress import Report
from workers.tensorrt.relu import write_relu
from workers.tensorrt.validity import validity_of

SIGNATURE = "signature.json"  # beside the plan: an engine cannot be asked where it cannot be loaded


class TensorRtRuntime:
    """See `base.Runtime`, `base.AheadOfTime` and `base.Reporting`."""

    name: str

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Build an engine. Raises as `build_reporting`."""
        return self.build_reporting(model, params, out, lambda done, total, message: None)

    def build_reporting(
        self, model: ModelHandle, params: Params, out: Path, report: Report, memory: Memory | None = None
    ) -> Engine:
        """Build an engine. Facts: those of `network_facts` and `build.build_plan`, `compute_capabilities`.

        Raises:
            Unavailable, InvalidParams, UnsupportedOperator, InvalidModel, OutOfMemory: see `build.build_plan`.
        """
        assert isinstance(params, TensorRtParams | TensorRtRtxParams)
        facts = build_plan(library(self.name), model, params, out, report, memory)
        (out / SIGNATURE).write_text(json.dumps(facts["signature"]))
        if params.strip:
            shutil.copytree(model.root, out / WEIGHTS_FOLDER)
            (out / WEIGHTS_FOLDER / "entry").write_text(model.entry)
        capabilities = self._capabilities(params)
        return Engine(out, ENTRY, {**network_facts(model), **facts, "compute_capabilities": capabilities})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine on the GPU. Raises Unavailable, InvalidModel as `LoadedTensorRt`."""
        assert isinstance(params, TensorRtParams | TensorRtRtxParams)
        weights = engine.root / WEIGHTS_FOLDER
        entry = weights / (weights / "entry").read_text() if params.strip else None
        return LoadedTensorRt(library(self.name), engine.path, params, entry)

    def hindrance(self, params: Params) -> str | None:
        """Why an engine with these parameters cannot run on this machine; None: it can."""
        found = gpus()
        if not found:
            return "there is no NVIDIA GPU on the machine that builds it"
        wanted = getattr(params, "compute_capabilities", ())
        here = found[0]["compute_capability"]
        if wanted and number_of(here) not in wanted:
            named = ", ".join(map(dotted, wanted))
            return (
                f"it is for compute capability {named}, and the GPU of the machine that builds it has {here}"
            )
        return None

    def signature(self, engine: Engine) -> dict[str, list[dict[str, Any]]]:
        """{inputs, outputs} as they were when it was built."""
        told: dict[str, list[dict[str, Any]]] = json.loads((engine.root / SIGNATURE).read_text())
        return told

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """See `validity.validity_of`."""
        assert isinstance(params, TensorRtParams | TensorRtRtxParams)
        return {
            "runtime": self.name,
            "version": library(self.name).version,
            "device": RUNTIMES[self.name].device,
            "architecture": platform.machine(),
            "cpu_features": [],
            **validity_of(self.name, library(self.name).version, engine, params),
            "profiles": engine.facts["profiles"],
            "inputs": self.signature(engine)["inputs"],
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """See `parse.coverage`: what is parsed may still fail in the build."""
        return parse.coverage(library(self.name), model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(RUNTIMES[self.name].packages)

    def self_test(self) -> None:
        """Build an engine of one node, and run it where there is a GPU for it."""
        params = RUNTIMES[self.name].params()
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder) / "model", Path(folder) / "engine"
            root.mkdir()
            out.mkdir()
            engine = self.build(write_relu(root), params, out)
            if not engine.size_bytes:
                raise RuntimeError("the engine of one node is empty")
            if self.hindrance(params) is None:
                found = self.load(engine, params).run({"x": np.array([[-1.0, 2.0]], dtype=np.float32)})
                if found["y"].tolist() != [[0.0, 2.0]]:
                    raise RuntimeError(f"Relu of [-1, 2] came out as {found['y'].tolist()}")

    def _capabilities(self, params: Params) -> list[str]:
        """Compute capabilities that the engine is for, as in `8.9`; [] where it is for all that the library serves."""
        if isinstance(params, TensorRtRtxParams):
            return [dotted(one) for one in params.compute_capabilities]
        return [gpu["compute_capability"] for gpu in gpus()[:1]]

    def look_into(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Facts: `layer_report` (`inspect.report`), `enqueue` (`LoadedTensorRt.enqueue_times`), and what they explain."""
        assert isinstance(params, TensorRtParams | TensorRtRtxParams)
        loaded = self.load(engine, params)
        assert isinstance(loaded, LoadedTensorRt)
        told = inspect.layers(library(self.name), loaded.engine)
        best = engine.facts["profiles"][0] if engine.facts["profiles"] else {}
        times = loaded.enqueue_times(
            {
                one["name"]: np.zeros(
                    best[one["name"]][1] if one["name"] in best else one["shape"], one["dtype"]
                )
                for one in loaded.inputs
            }
        )
        explained = [*engine.facts["explained"], *inspect.sentences(told)]
        if times["bound"]:
            explained.append(
                f"Launching a run takes the processor {times['host_ms']:.3g} ms, and the GPU works {times['device_ms']:.3g} ms "
                "on it: the network is too small for the GPU at this batch. CUDA graphs and larger batches help."
            )
        return {"layer_report": told, "enqueue": times, "explained": explained}
