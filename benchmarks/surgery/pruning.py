"""Half of the operations cut from a residual network, by Taylor and at random, then `finetune`; what rounding is worth; a latency asked for."""

from dataclasses import dataclass
from typing import Any

from app.measurements.compare import Interval
from benchmarks.runtimes import Measured
from benchmarks.surgery.networks import residual
from benchmarks.surgery.speed import CONTROL, engine, in_turns, share_text
from benchmarks.surgery.timing import on_target
from benchmarks.table import table
from benchmarks.training.common import Room, accuracy, interval_text, one_core, over_three, room
from tests.accuracy import fashion
from tests.accuracy.images import Split
from workers.context import Samples
from workers.model_handle import ModelHandle

RUNTIME, OTHER = "onnxruntime-cpu", "openvino-cpu"
SHAPE = [1, 28, 28]
SAMPLES = 20_000
FIRST = {"epochs": 4, "batch_size": 100, "learning_rate": 5e-3}
SECOND = {"epochs": 2, "batch_size": 100, "learning_rate": 2e-3}
SEEDS = (0, 1, 2)
SHARE = 0.5
ROUND_TO = 16
FINE = 4  # a latency is met more closely by smaller steps
ROUNDED = (1, 8, 16)
LATENCY, TOLERANCE = 0.6, 0.05
MOST_LOST, MOST_LATENCY = 1.0, 0.65
ORIGINAL, BY_LATENCY = "original", "by latency"


@dataclass(frozen=True)
class Pruned:
    """What one importance left, in the order of the seeds: percent of test images, and the share of operations."""

    untrained: list[float]
    trained: list[float]
    flops: list[float]


@dataclass(frozen=True)
class Cut:
    """A network cut otherwise: with another rounding or to a latency."""

    model: ModelHandle
    facts: dict[str, Any]

    @property
    def flops(self) -> float:
        """The share of operations that is left."""
        return float(self.facts["flops"]["after"] / self.facts["flops"]["before"])


def run() -> tuple[str, bool]:
    """The tables, and whether each goal was reached."""
    held = fashion.data()
    with room() as place:
        with one_core():
            train = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
            original, _ = place.apply("finetune", place.program(residual(), SHAPE), FIRST, train)
            longer, _ = place.apply("finetune", original, SECOND, train)
            before, as_long = (accuracy(model, held.test, held.test_labels) for model in (original, longer))
            found = {kind: over_seeds(place, original, train, kind, held) for kind in ("taylor", "random")}
            cuts = {f"{number}": cut(place, original, train, number) for number in ROUNDED}
        cuts[BY_LATENCY] = to_latency(place, original, train)
        times = {runtime: timed(place, original, cuts, runtime, held) for runtime in (RUNTIME, OTHER)}
    better = over_three(
        [one - other for one, other in zip(found["taylor"].trained, found["random"].trained, strict=True)]
    )
    kept = over_three(found["taylor"].trained)
    latency = 1 / times[RUNTIME][str(ROUND_TO)].speedup.value
    reached = 1 / times[RUNTIME][BY_LATENCY].speedup.value
    goals = {
        f"`taylor`, then `finetune`, at most {MOST_LOST:g} point below the better of the networks that were not pruned": (
            max(before, as_long) - kept.value,
            max(before, as_long) - kept.value <= MOST_LOST,
        ),
        f"its latency on `{RUNTIME}` at most {MOST_LATENCY:g}": (latency, latency <= MOST_LATENCY),
        "points that `taylor` is above `random` at least 0": (better.value, better.value >= 0),
        f"within {TOLERANCE:.0%} of the latency asked for": (
            reached / LATENCY - 1,
            abs(reached / LATENCY - 1) <= TOLERANCE,
        ),
    }
    parts = (
        importances(before, as_long, found, better),
        roundings(cuts, times),
        told(cuts[BY_LATENCY], times[RUNTIME]),
        "Goals: "
        + "; ".join(f"{name}: {value:.2f}, {_verdict(met)}" for name, (value, met) in goals.items())
        + ".",
    )
    return "\n\n".join(parts), all(met for _, met in goals.values())


def over_seeds(
    place: Room, original: ModelHandle, train: dict[str, Samples], importance: str, held: Split
) -> Pruned:
    """Pruned and trained once a seed."""
    found = Pruned([], [], [])
    for seed in SEEDS:
        made = cut(place, original, train, ROUND_TO, importance, seed)
        trained, _ = place.apply("finetune", made.model, SECOND, train, seed=seed)
        found.flops.append(made.flops)
        found.untrained.append(accuracy(made.model, held.test, held.test_labels))
        found.trained.append(accuracy(trained, held.test, held.test_labels))
    return found


def cut(
    place: Room,
    original: ModelHandle,
    train: dict[str, Samples],
    round_to: int,
    importance: str = "taylor",
    seed: int = 0,
) -> Cut:
    """At most half of the operations left."""
    params = {"importance": importance, "target": "flops", "to": SHARE, "round_to": round_to}
    return Cut(*place.apply("prune-channels", original, params, train, seed=seed))


def to_latency(place: Room, original: ModelHandle, train: dict[str, Samples]) -> Cut:
    """A share of the latency left, as the pass measured it."""
    params = {"importance": "taylor", "target": "latency", "to": LATENCY, "round_to": FINE}
    timing = on_target(place, original, SHAPE, RUNTIME)
    return Cut(*place.apply("prune-channels", original, params, train, timing=timing))


def timed(
    place: Room, original: ModelHandle, cuts: dict[str, Cut], runtime: str, held: Split
) -> dict[str, Measured]:
    """All beside the original, which runs twice."""
    models = {ORIGINAL: original, **{name: one.model for name, one in cuts.items()}}
    engines = {name: engine(place, model, runtime) for name, model in models.items()}
    return in_turns(place, engines, held.test[:1])


def importances(before: float, as_long: float, found: dict[str, Pruned], better: Interval) -> str:
    """What is left of accuracy."""
    rows = [
        ("not pruned", "1", f"{before:.2f}%", "–"),
        ("not pruned, trained on as long", "1", f"{as_long:.2f}%", f"{as_long - before:+.2f}"),
    ]
    for kind, one in found.items():
        flops = f"{min(one.flops):.3f} to {max(one.flops):.3f}"
        for what, scores in (("", one.untrained), (", then `finetune`", one.trained)):
            middle = over_three(scores)
            rows.append(
                (f"`{kind}`{what}", flops, f"{interval_text(middle, 2)}%", f"{middle.value - before:+.2f}")
            )
    text = table(("network", "FLOPs left", "accuracy", "points to the original"), rows)
    return (
        f"{text}\n\nFashion-MNIST: {SAMPLES:,} images to learn from, {FIRST['epochs']} epochs, and {SECOND['epochs']} more after pruning; "
        f"10,000 to test. Three seeds of the passes, intervals of 95% (Student's t); `round_to` is {ROUND_TO}. After `finetune` "
        f"`taylor` is {interval_text(better, 2)} points above `random`."
    )


def roundings(cuts: dict[str, Cut], times: dict[str, dict[str, Measured]]) -> str:
    """What rounding is worth, by measurement."""
    rows = [
        (
            "to a latency" if name == BY_LATENCY else f"to {SHARE:g} of the FLOPs",
            f"{FINE if name == BY_LATENCY else name}",
            f"{one.flops:.3f}",
            *(share_text(seen[name]) for seen in times.values()),
        )
        for name, one in cuts.items()
    ]
    columns = ("cut by `taylor`", "`round_to`", "FLOPs left", *(f"latency left, `{name}`" for name in times))
    controls = ", ".join(f"`{name}` {share_text(seen[CONTROL])}" for name, seen in times.items())
    wholes = ", ".join(f"{seen[ORIGINAL].p50_ms.value:.3f} ms on `{name}`" for name, seen in times.items())
    return f"{table(columns, rows)}\n\nOne image, one thread, in turns with the original, which takes {wholes}; it beside itself: {controls}."


def told(made: Cut, times: dict[str, Measured]) -> str:
    """How the latency was found, and what it is when measured anew."""
    tries = ", ".join(f"{one['latency']:.3f}" for one in made.facts["latency"])
    return (
        f"Asked for {LATENCY:g} of the latency on `{RUNTIME}`, the pass tried networks of {tries} of it and left one of {made.facts['latency_left']:.3f}. Measured "
        f"anew, beside all others, it is {share_text(times[BY_LATENCY])}."
    )


def _verdict(met: bool) -> str:
    return "reached" if met else "**missed**"
