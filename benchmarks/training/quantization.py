"""Training with the rounding in it (`qat`) beside quantizing afterwards (`quantize-static`), on narrow depthwise networks."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from app.catalog.runtimes import RUNTIMES
from app.measurements.compare import Interval
from benchmarks.runtimes import figures
from benchmarks.table import table
from benchmarks.training.common import INPUT, Room, accuracy, one_thread, room
from benchmarks.training.networks import narrow, uneven
from benchmarks.turns import Contender, take_turns
from tests.accuracy import fashion
from tests.accuracy.images import Split
from workers import runtimes
from workers.measure.feeds_file import save_feeds
from workers.measure.launched import EngineUnderTest
from workers.measure.processors import allowed_cpus
from workers.model_handle import ModelHandle

RUNTIME = "onnxruntime-cpu"
SAMPLES, CALIBRATED = 20_000, 512
SECOND = {"epochs": 3, "batch_size": 100, "learning_rate": 1e-3}
LEAST_LOSS = 0.5  # points that `quantize-static` must cost here, or there is nothing to win
LEAST_SPEED = 0.97
LAUNCHES, SECONDS = 5, 20.0
STATIC, LONGER, AWARE = "`quantize-static`", "trained on as long, `quantize-static`", "`qat`"


@dataclass(frozen=True)
class Case:
    """A network, how it learns what it knows, and in words what it is."""

    make: Callable[[], nn.Module]
    first: Mapping[str, Any]
    told: str


CASES = {
    "without norms": Case(
        narrow,
        {"epochs": 10, "batch_size": 100, "learning_rate": 5e-3, "warmup": 0.3, "clip_norm": None},
        "twelve depthwise and twelve pointwise convolutions of 8 to 16 channels, swish, no batch norms: nothing brings its "
        "channels to one size, and small negative numbers count, so one range for a whole tensor leaves many channels few levels",
    ),
    "uneven": Case(
        uneven,
        {"epochs": 3, "batch_size": 100, "learning_rate": 5e-3},
        "five of each, of 8 to 32 channels, ReLU, batch norms. Their scales begin log-normal (sigma 1.5), on purpose: in networks "
        "that trained for days they drift apart, in minutes they do not",
    ),
}


def run() -> tuple[str, bool]:
    """The table, and whether `qat` is at least as accurate and as fast."""
    one_thread()
    held = fashion.data()
    rows, told, shown = [], [], True
    for name, case in CASES.items():
        with room() as place:
            models = quantized(place, case, held)
            scores = {kind: accuracy(model, held.test, held.test_labels) for kind, model in models.items()}
            ratio = speed(place, models, held)
        before = scores["fp32"]
        rows += [(name, kind, f"{score:.2f}%", f"{score - before:+.2f}") for kind, score in scores.items()]
        told.append(
            f"*{name.capitalize()}*: {case.told}. The engine of `qat` is {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] as fast "
            "as that of `quantize-static`."
        )
        as_accurate = scores[AWARE] >= max(scores[STATIC], scores[LONGER])
        shown &= before - scores[STATIC] > LEAST_LOSS and as_accurate and ratio.high >= LEAST_SPEED
    text = table(("network", "model", "accuracy", "points to fp32"), rows)
    text += (
        f"\n\nFashion-MNIST, {SAMPLES:,} images to learn from, {len(held.test):,} to test; `qat` trains {SECOND['epochs']} epochs more, so "
        "the network that was trained on for as many in fp32 is beside it. "
        + "\n\n".join(told)
        + f" Speed on `{RUNTIME}`, one thread, in turns."
    )
    return text, shown


def quantized(place: Room, case: Case, held: Split) -> dict[str, ModelHandle]:
    """The network in fp32 and in 8 bits in three ways."""
    train = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
    calibration = {"calibration": place.data(held.train[:CALIBRATED])}
    with one_processor():
        trained, _ = place.apply("finetune", place.program(case.make(), (1, 28, 28)), case.first, train)
        longer, _ = place.apply("finetune", trained, SECOND, train)
        aware, _ = place.apply("qat", trained, SECOND, {**train, **calibration})
    return {
        "fp32": trained,
        STATIC: place.apply("quantize-static", trained, {}, calibration)[0],
        LONGER: place.apply("quantize-static", longer, {}, calibration)[0],
        AWARE: aware,
    }


@contextmanager
def one_processor() -> Iterator[None]:
    """Train on one: threads of small layers wait for one another, and add up in another order."""
    before = allowed_cpus()
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def speed(place: Room, models: Mapping[str, ModelHandle], held: Split) -> Interval:
    """How many times as fast as the engine of `quantize-static` that of `qat` is."""
    contenders = [Contender(name, engine(place, models[name])) for name in (STATIC, AWARE)]
    feeds = place.new() / "feeds.npz"
    save_feeds(feeds, [{INPUT: held.test[:1]}])
    seen = take_turns(contenders, feeds, place.new(), launches=LAUNCHES, seconds=SECONDS)
    return figures(contenders, seen)[1].speedup


def engine(place: Room, model: ModelHandle) -> EngineUnderTest:
    """An engine of one thread."""
    spec = RUNTIMES[RUNTIME]
    params = spec.params.model_validate({"threads": 1})
    if model.format not in spec.formats:
        raise ValueError(f"{RUNTIME} takes no {model.format}")
    built = runtimes.registry.alone(RUNTIME).build(model, params, place.new())
    return EngineUnderTest(RUNTIME, built.root, built.entry, params.model_dump(mode="json"))
