"""Engines of one thread, timed in turns."""

from collections.abc import Mapping

import numpy as np

from app.catalog.formats import way
from app.catalog.runtimes import RUNTIMES
from benchmarks.runtimes import Measured, figures
from benchmarks.training.common import INPUT, Room
from benchmarks.turns import Contender, take_turns
from workers import runtimes
from workers.conversion import convert, open_model
from workers.measure.feeds_file import save_feeds
from workers.measure.launched import EngineUnderTest
from workers.model_handle import ModelHandle

LAUNCHES, SECONDS = 5, 20.0
CONTROL = "control"
PARAMS = {"threads": 1}


def engine(place: Room, model: ModelHandle, runtime: str) -> EngineUnderTest:
    """A model built for a runtime, on one thread; converted where the runtime takes another format."""
    spec = RUNTIMES[runtime]
    if (to := way(model.format, spec.formats)) is not None:
        model, _ = convert(open_model(model), to, place.new())
    params = spec.params.model_validate(PARAMS)
    built = runtimes.registry.alone(runtime).build(model, params, place.new())
    return EngineUnderTest(runtime, built.root, built.entry, params.model_dump(mode="json"))


def in_turns(place: Room, engines: Mapping[str, EngineUnderTest], inputs: np.ndarray) -> dict[str, Measured]:
    """What each takes for these inputs, and how many times as fast as the first it is; the first runs twice, as `CONTROL` too."""
    contenders = [Contender(name, one) for name, one in engines.items()]
    contenders.append(Contender(CONTROL, contenders[0].engine))
    feeds = place.new() / "feeds.npz"
    save_feeds(feeds, [{INPUT: inputs}])
    seen = take_turns(contenders, feeds, place.new(), launches=LAUNCHES, seconds=SECONDS)
    return {one.contender.name: one for one in figures(contenders, seen)}


def share_text(found: Measured) -> str:
    """The time as a share of the first engine's, with its interval of 95%."""
    ratio = found.speedup
    return f"{1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def times_text(found: Measured) -> str:
    """How many times as fast as the first engine, with its interval of 95%."""
    return f"{found.speedup.value:.2f} [{found.speedup.low:.2f}, {found.speedup.high:.2f}]"
