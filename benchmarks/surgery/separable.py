"""A network like VGG with depthwise-separable convolutions in place of its own, started from weights and from data, then `distill`."""

from typing import Any

from benchmarks.surgery.networks import plain
from benchmarks.surgery.speed import CONTROL, engine, in_turns, share_text
from benchmarks.table import table
from benchmarks.training.common import accuracy, one_core, room
from tests.accuracy import fashion
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.why import why

RUNTIME = "onnxruntime-cpu"
SAMPLES, FITTED = 12_000, 256
FIRST = {"epochs": 8, "batch_size": 100, "learning_rate": 5e-3}
DISTILLED = {"epochs": 10, "batch_size": 100, "learning_rate": 3e-3}
MOST_FLOPS, MOST_LOST = 0.25, 1.5
REPLACED: dict[str, Any] = {"samples": FITTED, "keep_flops": MOST_FLOPS}
ORIGINAL, ON_WEIGHTS, ON_DATA, TAUGHT = "original", "on weights", "on data", "… `distill`"


def run() -> tuple[str, bool]:
    """The table, and whether few enough operations keep enough accuracy."""
    held = fashion.data()
    with room() as place:
        with one_core():
            train = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
            data = {"calibration": place.data(held.train[:FITTED])}
            original, _ = place.apply("finetune", place.program(plain(), held.train.shape[1:]), FIRST, train)
            on_weights, _ = place.apply("depthwise-separable", original, REPLACED, {})
            on_data, facts = place.apply("depthwise-separable", original, REPLACED, data)
            taught, _ = place.apply("distill", on_data, DISTILLED, train, teacher=original)
            models = {ORIGINAL: original, ON_WEIGHTS: on_weights, ON_DATA: on_data, TAUGHT: taught}
            scores = {name: accuracy(model, held.test, held.test_labels) for name, model in models.items()}
            longer, _ = place.apply("finetune", original, DISTILLED, train)
            as_long = accuracy(longer, held.test, held.test_labels)
        engines = {name: engine(place, models[name], RUNTIME) for name in (ORIGINAL, TAUGHT)}
        times = in_turns(place, engines, held.test[:1])
        told_of = {
            name: {**graph_facts(one.root / one.entry), "model_half_weights": 0}
            for name, one in engines.items()
        }
    before, after = facts["surgery"]["flops"]
    share, lost = after / before, max(as_long, scores[ORIGINAL]) - scores[TAUGHT]
    rows = [
        (
            name,
            "1" if name == ORIGINAL else f"{share:.3f}",
            f"{score:.2f}%",
            share_text(times[name]) if name in times else "",
        )
        for name, score in scores.items()
    ]
    text = table(("", "operations left", "accuracy", "latency left"), rows)
    verdict = "faster" if times[TAUGHT].speedup.low > 1 else "slower"
    said = " ".join(why(told_of[ORIGINAL], told_of[TAUGHT], {"speedup": {"verdict": verdict}}))
    goals = (
        (f"at most {MOST_FLOPS:g} of the operations", share <= MOST_FLOPS),
        (f"at most {MOST_LOST:g} points lost", lost <= MOST_LOST),
    )
    told = "; ".join(f"{goal}, {'reached' if met else '**missed**'}" for goal, met in goals)
    text += (
        f"\n\nFive 3×3 convolutions of 32 to 128 channels on Fashion-MNIST, the first left as it is: {SAMPLES:,} images to learn from, "
        f"{FIRST['epochs']} epochs, {DISTILLED['epochs']} more to learn from the original; {len(held.test):,} to test; fitted on {FITTED}. "
        f"Trained on as long the original is at {as_long:.2f}%, and what is lost is counted from the better of the two: {lost:.2f} points. "
        f"Latency: `{RUNTIME}`, one image, one thread, in turns; the original beside itself: {share_text(times[CONTROL])}. What `why` says: "
        f"{said} Goals: {told}."
    )
    return text, all(met for _, met in goals)
