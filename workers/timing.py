"""How long a candidate takes on the job's own target, for passes that look for one that is fast enough."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.formats import way
from app.catalog.runtimes import RUNTIMES
from app.errors import IncompatibleRecipe
from app.measurements.compare import Interval
from workers import gpu, runtimes, unmeasured
from workers.conversion import convert, open_model
from workers.feeds import paired_plans
from workers.measure.environment import hardware_key
from workers.measure.feeds_file import choose_feeds, save_feeds
from workers.measure.latency import EngineUnderTest, compare_latency
from workers.model_handle import ModelHandle
from workers.runtimes.base import Engine
from workers.steps import Supervisor

if TYPE_CHECKING:
    from workers.pipeline import Attempt

GPU_CONTEXT_BYTES = 512 << 20  # of a process that uses CUDA, before it holds anything
LAUNCHES = 3
SHARE = 0.5  # of the seconds that the job's own measuring takes, for each candidate


@contextmanager
def alone(supervisor: Supervisor, device: str, engines: Sequence[Path]) -> Iterator[None]:
    """With the device to ourselves, and with room on it for these engines.

    Raises:
        OutOfMemory: a GPU has no room for them.
    """
    leased = gpu.lease_name(device)
    supervisor.ask("acquire", device=leased)
    try:
        if device == "cuda":
            gpu.require_free(gpu_need_bytes(engines))
        yield
    finally:
        supervisor.ask("release", device=leased)


def gpu_need_bytes(engines: Sequence[Path]) -> int:
    """What measuring these engines takes of a GPU at least: their weights, as much again to work in, a context for each."""
    weights = sum(file.stat().st_size for root in engines for file in root.rglob("*") if file.is_file())
    return 2 * weights + len(engines) * GPU_CONTEXT_BYTES


class OnTarget:
    """Candidates beside the model that a pass was given, in turns on the job's target. See `context.Timing`."""

    def __init__(self, attempt: "Attempt", model: ModelHandle, stage: str, scratch: Path):
        self._attempt, self._stage, self._scratch = attempt, stage, scratch
        self._runtime = RUNTIMES[attempt.assignment.target["runtime"]]
        self._params = self._runtime.params.model_validate(attempt.assignment.target["params"])
        self._model = model
        self._engines: dict[str, EngineUnderTest] = {}  # by the model's digest: some are measured again
        self._count = 0

    @property
    def cause(self) -> dict[str, Any]:
        """What a time depends on: part of the key of a step that chooses by it."""
        implementation = runtimes.registry.alone(self._runtime.name)
        return {
            "runtime": self._runtime.name,
            "version": self._runtime.version,
            "params": self._params.model_dump(mode="json"),
            "packages": dict(implementation.versions()),
            "hardware": hardware_key(self._runtime.device),
        }

    def share(self, candidate: ModelHandle) -> Interval:
        """The candidate's latency as a share of that of the model that the pass was given, with its interval of 95%.

        Raises:
            IncompatibleRecipe: the target cannot be run here.
            BurnishError: an engine cannot be built, or does not run.
        """
        self._check()
        given, candidate_engine = self._engine(self._model), self._engine(candidate)
        feeds = self._folder() / "feeds.npz"
        save_feeds(feeds, self._feeds(given, candidate_engine))
        with alone(self._attempt.supervisor, self._runtime.device, [given.root, candidate_engine.root]):
            seen = compare_latency(
                given,
                candidate_engine,
                feeds,
                self._folder(),
                launches=LAUNCHES,
                seconds=SHARE * self._attempt.assignment.measure_seconds,
                seed=self._attempt.assignment.seed,
                report=self._attempt.report(self._stage),
            )
        faster = seen["speedup"]
        return Interval(1 / faster["value"], 1 / faster["high"], 1 / faster["low"])

    def _check(self) -> None:
        lacking = unmeasured.hindrance(self._runtime, self._params, {}, elsewhere=True)
        if lacking is not None:
            raise IncompatibleRecipe(
                f"the pass chooses by latency on {self._runtime.name}, which cannot be run here: {lacking}",
                stage=self._stage,
                hint="choose by `flops` instead, or run the job on a worker that has the target's device",
            )

    def _engine(self, model: ModelHandle) -> EngineUnderTest:
        if model.digest not in self._engines:
            self._engines[model.digest] = self._built(model)
        return self._engines[model.digest]

    def _built(self, model: ModelHandle) -> EngineUnderTest:
        if (to := way(model.format, self._runtime.formats)) is not None:
            model, _ = convert(open_model(model), to, self._folder(), self._attempt.assignment.seed)
        engine = runtimes.registry.alone(self._runtime.name).build(model, self._params, self._folder())
        return EngineUnderTest(
            self._runtime.name, engine.root, engine.entry, self._params.model_dump(mode="json")
        )

    def _feeds(self, given: EngineUnderTest, candidate: EngineUnderTest) -> list[dict[str, Any]]:
        samples = self._attempt.measuring_samples
        plan, _ = paired_plans(self._inputs(given), self._inputs(candidate), samples.inputs)
        return choose_feeds(plan, samples)

    def _inputs(self, side: EngineUnderTest) -> list[dict[str, Any]]:
        implementation = runtimes.registry.alone(self._runtime.name)
        return implementation.load(Engine(side.root, side.entry), self._params).inputs

    def _folder(self) -> Path:
        self._count += 1
        made = self._scratch / f"{self._count:03d}"
        made.mkdir(parents=True)
        return made
