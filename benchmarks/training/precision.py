"""The same training in bf16 and in fp32: accuracy, and time as a ratio."""

from benchmarks.table import table
from benchmarks.training.common import accuracy, interval_text, one_core, over_three, room
from benchmarks.training.networks import residual
from tests.accuracy import fashion

SAMPLES, TESTED, SEEDS = 5000, 5000, (0, 1, 2)
TRAINING = {"epochs": 3, "batch_size": 100, "learning_rate": 3e-3}


def run() -> tuple[str, bool]:
    """The table, and whether accuracies differ by no more than seeds make them differ."""
    with one_core():
        return _run()


def _run() -> tuple[str, bool]:
    held = fashion.data()
    scores: dict[str, list[float]] = {"fp32": [], "bf16": []}
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with room() as place:
        model = place.program(residual(), (1, 28, 28))
        data = {"train": place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])}
        for seed in SEEDS:
            for precision in ("fp32", "bf16") if seed % 2 else ("bf16", "fp32"):
                made, facts = place.apply(
                    "finetune", model, {**TRAINING, "precision": precision}, data, seed=seed
                )
                scores[precision].append(accuracy(made, held.test[:TESTED], held.test_labels[:TESTED]))
                seconds[precision].append(1 / facts["training"]["samples_per_second"])
    apart = over_three([one - other for one, other in zip(scores["bf16"], scores["fp32"], strict=True)])
    ratios = over_three([one / other for one, other in zip(seconds["fp32"], seconds["bf16"], strict=True)])
    rows = [
        (name, f"{interval_text(over_three(scores[name]))}%", "1" if name == "fp32" else f"{interval_text(ratios, 2)}x as fast")
        for name in scores
    ]  # fmt: skip
    text = table(("Fashion-MNIST", "accuracy", "speed"), rows)
    text += (
        f"\n\nbf16 less fp32: {interval_text(apart)} points, three seeds, {SAMPLES:,} images, {TRAINING['epochs']} epochs, one "
        "core. A processor without bf16 instructions computes it slower than fp32."
    )
    return text, apart.low <= 0 <= apart.high
