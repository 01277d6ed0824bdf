"""One network as everything that it is compared as: its own framework, `torch.compile`, ONNX Runtime, and each target's preset."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.formats import way
from app.catalog.passes import PASSES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts
from benchmarks.turns import Contender
from benchmarks.untrained import Untrained
from workers import passes, runtimes
from workers.context import PassContext, Samples
from workers.conversion import convert, open_model
from workers.feeds import plan_feeds
from workers.formats import onnx
from workers.measure.feeds_file import choose_feeds, save_feeds
from workers.measure.launched import EngineUnderTest
from workers.model_handle import ModelHandle
from workers.npz import read_headers
from workers.runtimes.base import Engine, LoadedEngine
from workers.samples import NpzSamples
from workers.verify import follow

EAGER, COMPILED, PLAIN = "PyTorch eager", "`torch.compile`", "ONNX Runtime, fp32"
CONTROL = f"{EAGER}, once more"
TARGETS = ("onnxruntime-cpu", "openvino-cpu", "torch-inductor-cpu")
COMPILE = (sys.executable, "-P", str(Path(__file__).with_name("compiled.py")))
SAMPLES = 32  # for calibration
DATASET = "dat_noise"


@dataclass(frozen=True)
class Options:
    """What of a job's options matters to `plan`."""

    allow_synthetic: bool = False


class Prepared:
    """A network, converted and taken through each target's preset in a folder; engines are built a number of threads at a time."""

    def __init__(self, network: Untrained, folder: Path, targets: Sequence[str] = TARGETS):
        self._folder = folder
        self._count = 0
        self.network = network
        self._original = network.write(self._new())
        opened = open_model(self._original)
        self._forms = {to: convert(opened, to, self._new())[0] for to in ("onnx", "torch-export")}
        self._samples = self._save(network.data(SAMPLES))
        self.feeds = folder / "feeds.npz"
        save_feeds(self.feeds, choose_feeds(plan_feeds(opened.inputs, self._samples.inputs), self._samples))
        self._facts = self._described(opened.inputs, opened.outputs)
        self._presets = {name: self._optimized(name) for name in targets}

    def contenders(self, threads: int) -> Iterator[Contender]:
        """All of them with so many threads; the first is what the others are held against, the last its control."""
        eager = self._built("torch-eager", self._original, threads)
        reference = _loaded(eager)
        yield Contender(EAGER, eager)
        yield Contender(COMPILED, _compiled(eager), command=COMPILE)
        plain = self._built("onnxruntime-cpu", self._form("onnxruntime-cpu", self._original), threads)
        yield Contender(PLAIN, plain, sqnr_db=self._sqnr(reference, plain))
        for name, (model, recipe) in self._presets.items():
            engine = self._built(name, self._form(name, model), threads)
            done = tuple(step.name for step in recipe.passes)
            yield Contender(name, engine, done, self._sqnr(reference, engine))
        yield Contender(CONTROL, eager)

    def _optimized(self, runtime: str) -> tuple[ModelHandle, Recipe]:
        """The model after the passes that the target's preset chooses, and the recipe of these."""
        data = DatasetFacts(DATASET, self._samples.digest, SAMPLES, _described(self._samples), None)
        recipe = plan(
            None,
            self._facts,
            Target(runtime=runtime),
            {DATASET: data},
            None,
            Options(),
            calibration_hint=DATASET,
        )
        model = self._original
        for step in recipe.passes:
            spec = PASSES[step.name]
            samples: dict[str, Samples] = dict.fromkeys(step.inputs, self._samples)
            context = PassContext(out=self._new(), samples=samples)
            params = spec.params.model_validate(step.params)
            model = passes.registry.get(spec.name)(self._taken(model, spec.formats), params, context)
        return model, recipe

    def _form(self, runtime: str, model: ModelHandle) -> ModelHandle:
        return self._taken(model, RUNTIMES[runtime].formats)

    def _taken(self, model: ModelHandle, formats: frozenset[str]) -> ModelHandle:
        to = way(model.format, formats)
        return model if to is None else self._forms[to]

    def _built(self, runtime: str, model: ModelHandle, threads: int) -> EngineUnderTest:
        params = RUNTIMES[runtime].params.model_validate({"threads": threads})
        engine = runtimes.registry.alone(runtime).build(model, params, self._new())
        return EngineUnderTest(runtime, engine.root, engine.entry, params.model_dump(mode="json"))

    def _sqnr(self, reference: LoadedEngine, engine: EngineUnderTest) -> float | None:
        """Signal to noise of the worst output on the first samples, in dB; None where there is no noise."""
        fidelity, reason = follow(reference, _loaded(engine), self._samples)
        if reason is not None:
            raise RuntimeError(f"{self.network.name} does not run in its own framework: {reason}")
        found = [one["sqnr_db"] for one in fidelity.result()["outputs"].values()]
        return min((value for value in found if value is not None), default=None)

    def _described(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> ModelFacts:
        """What the inspection of an upload would know of it, as far as presets look at it."""
        form = self._forms["onnx"]
        facts = onnx.describe(form.root, form.entry)["facts"]
        return ModelFacts(
            format=self._original.format,
            precision=facts["precision"],
            operators=facts["operators"],
            size_bytes=self._original.size_bytes,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            control_flow=facts["control_flow"],
        )

    def _save(self, data: dict[str, np.ndarray]) -> NpzSamples:
        path = self._folder / "data.npz"
        np.savez(path, **data)  # type: ignore[arg-type]
        return NpzSamples(path, DATASET, read_headers(path))

    def _new(self) -> Path:
        self._count += 1
        out = self._folder / str(self._count)
        out.mkdir()
        return out


def _compiled(eager: EngineUnderTest) -> EngineUnderTest:
    return EngineUnderTest("torch-compile", eager.root, eager.entry, eager.params)


def _loaded(engine: EngineUnderTest) -> LoadedEngine:
    params = RUNTIMES[engine.runtime].params.model_validate(engine.params)
    return runtimes.registry.alone(engine.runtime).load(Engine(engine.root, engine.entry), params)


def _described(samples: NpzSamples) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in samples.inputs.items()}
