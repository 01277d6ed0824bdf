"""A network like VGG pruned, distilled from what it was and quantized, beside PyTorch in fp32: what each step brings."""

from benchmarks.surgery.networks import plain
from benchmarks.surgery.speed import CONTROL, engine, in_turns, times_text
from benchmarks.table import table
from benchmarks.training.common import Room, accuracy, one_core, room
from tests.accuracy import fashion
from tests.accuracy.images import Split
from workers.context import Samples
from workers.measure.launched import EngineUnderTest
from workers.model_handle import ModelHandle

EAGER, RUNTIME = "torch-eager", "onnxruntime-cpu"
SAMPLES, CALIBRATED = 12_000, 512
FIRST = {"epochs": 8, "batch_size": 100, "learning_rate": 5e-3}
PRUNED = {"importance": "taylor", "target": "flops", "to": 0.5, "round_to": 16}
DISTILLED = {"epochs": 5, "batch_size": 100, "learning_rate": 3e-3}
LEAST_TIMES, LEAST_SMALLER, MOST_LOST = 8.0, 6.0, 1.0
IN_PYTORCH, ORIGINAL, CHAIN = "fp32, in PyTorch", "fp32", "… `quantize-static`"


def run() -> tuple[str, bool]:
    """The table, and whether the end of the chain is as fast, as small and as accurate as it must be."""
    held = fashion.data()
    with room() as place:
        with one_core():
            train = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
            models, weights = steps(place, held, train)
            longer, _ = place.apply("finetune", models[ORIGINAL], DISTILLED, train)
            as_long = accuracy(longer, held.test, held.test_labels)
            scores = {name: accuracy(model, held.test, held.test_labels) for name, model in models.items()}
        engines = {name: engine(place, model, RUNTIME) for name, model in models.items()}
        sizes = {IN_PYTORCH: weights, **{name: bytes_of(one) for name, one in engines.items()}}
        eager = engine(place, models[ORIGINAL], EAGER)
        times = in_turns(place, {IN_PYTORCH: eager, **engines}, held.test[:1])
    scores = {IN_PYTORCH: scores[ORIGINAL], **scores}
    rows = [
        (
            name,
            f"`{EAGER if name == IN_PYTORCH else RUNTIME}`",
            f"{scores[name]:.2f}%",
            f"{sizes[name] / 1000:,.0f}",
            f"{weights / sizes[name]:.1f}",
            f"{times[name].p50_ms.value:.3f}",
            times_text(times[name]),
        )
        for name in scores
    ]
    lost, smaller = max(as_long, scores[ORIGINAL]) - scores[CHAIN], weights / sizes[CHAIN]
    faster = times[CHAIN].speedup
    goals = (
        (f"at least {LEAST_TIMES:g} times as fast", faster.low >= LEAST_TIMES),
        (f"at least {LEAST_SMALLER:g} times smaller", smaller >= LEAST_SMALLER),
        (f"at most {MOST_LOST:g} point lost", lost <= MOST_LOST),
    )
    told = "; ".join(f"{goal}, {'reached' if met else '**missed**'}" for goal, met in goals)
    text = table(("model", "runs on", "accuracy", "kB", "times smaller", "p50, ms", "times as fast"), rows)
    text += (
        f"\n\nA network of five 3×3 convolutions of 32 to 128 channels on Fashion-MNIST: {SAMPLES:,} images to learn from, "
        f"{FIRST['epochs']} epochs, and {DISTILLED['epochs']} more to learn from what it was before pruning; {len(held.test):,} to test. Not "
        f"pruned and trained on as long it is at {as_long:.2f}%, and what is lost is counted from the better of the two: {lost:.2f} points. "
        f"Pruning leaves half of the operations, and multiples of {PRUNED['round_to']} channels. Size: for PyTorch the weights alone, else "
        f"the engine. One image, one thread, in turns; PyTorch beside itself: {times_text(times[CONTROL])}. Goals: {told}."
    )
    return text, all(met for _, met in goals)


def steps(place: Room, held: Split, train: dict[str, Samples]) -> tuple[dict[str, ModelHandle], int]:
    """The network after each step, and the bytes of its weights before the first."""
    calibration = {"calibration": place.data(held.train[:CALIBRATED])}
    original, _ = place.apply("finetune", place.program(plain(), held.train.shape[1:]), FIRST, train)
    pruned, facts = place.apply("prune-channels", original, PRUNED, train)
    distilled, _ = place.apply("distill", pruned, DISTILLED, train, teacher=original)
    quantized, _ = place.apply("quantize-static", distilled, {}, calibration)
    made = {ORIGINAL: original, "`prune-channels`": pruned, "… `distill`": distilled, CHAIN: quantized}
    return made, facts["size_bytes"]["before"]


def bytes_of(one: EngineUnderTest) -> int:
    """What an engine takes on disk."""
    return sum(file.stat().st_size for file in one.root.rglob("*") if file.is_file())
