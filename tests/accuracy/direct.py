"""Passes and engines judged by labelled data with the workers' own code, in this process: accuracy needs no timing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.formats import way
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import BurnishError, Internal
from tests.accuracy.cases import MAX_DROP, SEED, THREADS, Case, Outcome
from tests.accuracy.subjects import Subject
from workers import passes, runtimes
from workers.context import Feeds, PassContext, Samples
from workers.conversion import convert, open_model
from workers.measure.accuracy import Accuracy
from workers.measure.fidelity import Fidelity
from workers.measure.side_by_side import run_side_by_side
from workers.model_handle import ModelHandle
from workers.npz import read_headers
from workers.onnx_files import tree_digest
from workers.runtimes.base import LoadedEngine
from workers.samples import NpzSamples


class Remembering:
    """An engine that runs on each input once."""

    def __init__(self, engine: LoadedEngine):
        self._engine = engine
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._known: dict[bytes, dict[str, np.ndarray]] = {}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        key = b"".join(feeds[name].tobytes() for name in sorted(feeds))
        if key not in self._known:
            self._known[key] = {name: np.array(value) for name, value in self._engine.run(feeds).items()}
        return self._known[key]


@dataclass
class Bench:
    """A network and its data on disk, with what was made of it so far; everything lies under `folder`."""

    subject: Subject
    folder: Path
    _converted: dict[tuple[str, str], ModelHandle] = field(default_factory=dict)
    _simplified: dict[str, ModelHandle] = field(default_factory=dict)
    _baselines: dict[str, LoadedEngine] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        upload = self._new()
        self.model = ModelHandle(
            upload, self.subject.export(upload / "net.pt2").name, "torch-export", tree_digest(upload)
        )
        self.calibration = self._samples("calibration", self.subject.calibration)
        self.evaluation = self._samples("evaluation", self.subject.evaluation)

    def outcome(self, case: Case) -> Outcome:
        """What became of one recipe. Errors that are none of the contract's are `internal`, as a job would say."""
        try:
            return self._judged(case)
        except BurnishError as error:
            return Outcome(case.passes, {"code": error.code, "detail": error.detail})
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            return Outcome(case.passes, {"code": Internal.code, "detail": detail})

    def _judged(self, case: Case) -> Outcome:
        model = self.model
        for step in case.passes:
            model = self._passed(model, step)
        spec = RUNTIMES[case.runtime]
        params = spec.params.model_validate({"threads": THREADS, **case.params})
        size, engine = self._built(case.runtime, params, model)
        if case.runtime not in self._baselines:
            _, plain = self._built(case.runtime, spec.baseline_params(params), self.model)
            self._baselines[case.runtime] = Remembering(plain)
        accuracy, fidelity = Accuracy("top1"), Fidelity()
        for run in run_side_by_side(self._baselines[case.runtime], engine, self.evaluation):
            accuracy.observe(run)
            fidelity.observe(run)
        original, drop = accuracy.of_baseline(SEED), accuracy.drop(SEED)
        assert original is not None
        assert drop is not None
        (output,) = fidelity.result()["outputs"].values()
        return Outcome(
            case.passes,
            None,
            original["value"],
            accuracy.of_optimized(SEED)["value"],
            {"value": drop.value, "low": drop.low, "high": drop.high},
            accuracy.within_budget(MAX_DROP, SEED)[0],
            size / self.model.size_bytes,
            output["sqnr_db"],
        )

    def _passed(self, model: ModelHandle, step: Mapping[str, Any]) -> ModelHandle:
        spec, given = PASSES[step["pass"]], step.get("params", {})
        first = model is self.model and step == {"pass": "simplify"}
        if first and spec.name in self._simplified:
            return self._simplified[spec.name]
        model = self._taken(model, spec.formats)
        params = spec.params.model_validate(given)
        samples: dict[str, Samples] = dict.fromkeys(spec.needs(params.model_dump()), self.calibration)
        made = passes.registry.get(spec.name)(model, params, PassContext(self._new(), SEED, samples))
        if first:
            self._simplified[spec.name] = made
        return made

    def _taken(self, model: ModelHandle, formats: frozenset[str]) -> ModelHandle:
        to = way(model.format, formats)
        if to is None:
            return model
        if (model.digest, to) not in self._converted:
            self._converted[model.digest, to], _ = convert(open_model(model), to, self._new(), SEED)
        return self._converted[model.digest, to]

    def _built(self, runtime: str, params: Params, model: ModelHandle) -> tuple[int, LoadedEngine]:
        """The engine's size in bytes, and itself."""
        implementation = runtimes.registry.alone(runtime)
        engine = implementation.build(self._taken(model, RUNTIMES[runtime].formats), params, self._new())
        return engine.size_bytes, implementation.load(engine, params)

    def _samples(self, name: str, arrays: Mapping[str, np.ndarray]) -> NpzSamples:
        path = self._new() / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return NpzSamples(path, tree_digest(path.parent), read_headers(path))

    def _new(self) -> Path:
        self._made += 1
        folder = self.folder / str(self._made)
        folder.mkdir(parents=True)
        return folder
