"""Distillation into a network of the zoo, taught by a published classifier of MNIST.

Few labelled images, with and without the teacher, the same steps and seeds; then many without labels.
"""

from benchmarks.table import table
from benchmarks.training.common import accuracy, interval_text, one_thread, over_three, room
from tests.accuracy import digits
from workers.model_handle import ModelHandle

STUDENT = "shufflenetv2_wd2"
FEW, MANY, TESTED = 1000, 12_000, 4000
SEEDS = (0, 1, 2)
TRAINING = {"batch_size": 50, "learning_rate": 3e-3, "student": STUDENT, "temperature": 4.0}
LEAST_SHARE = 2.0  # points that the student may stay behind its teacher without labels


def run() -> tuple[str, bool]:
    """The table, and whether both goals were reached."""
    one_thread()
    held = digits.data()
    images, labels = held.test[:TESTED], held.test_labels[:TESTED]
    with room() as place:
        teacher = place.program(digits.published(), (1, 28, 28))
        top = accuracy(teacher, images, labels)
        few = {"train": place.data(held.train[:FEW], held.train_labels[:FEW])}

        def score(samples: dict, seed: int, **params: object) -> tuple[ModelHandle, float]:  # type: ignore[type-arg]
            made, _ = place.apply("distill", teacher, {**TRAINING, **params}, samples, seed=seed)
            return made, accuracy(made, images, labels)

        taught = [score(few, seed, epochs=30, hard_weight=0.1)[1] for seed in SEEDS]
        alone = [score(few, seed, epochs=30, hard_weight=1.0)[1] for seed in SEEDS]
        student, unlabelled = score({"train": place.data(held.train[:MANY])}, 0, epochs=6)
        sizes = [model.size_bytes for model in (teacher, student)]
    better = over_three([one - other for one, other in zip(taught, alone, strict=True)])
    rows = [
        ("the teacher", "", f"{top:.1f}%"),
        ("student, labels alone", f"{FEW:,} labelled", f"{interval_text(over_three(alone))}%"),
        ("student, labels and teacher", f"{FEW:,} labelled", f"{interval_text(over_three(taught))}%"),
        ("the teacher brought", f"{FEW:,} labelled", f"{interval_text(better)} points"),
        ("student, teacher alone", f"{MANY:,} without labels", f"{unlabelled:.1f}%"),
    ]
    text = table(("MNIST", "images", "accuracy"), rows)
    text += (
        f"\n\nThe student is `{STUDENT}`, {sizes[1] / sizes[0]:.2f} of the teacher's size; {TESTED:,} test images, three seeds, "
        "intervals of 95% (Student's t)."
    )
    return text, better.low > 0 and unlabelled >= top - LEAST_SHARE
