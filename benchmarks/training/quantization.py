"""Training with the rounding in it (`qat`) beside quantizing afterwards (`quantize-static`), on a narrow depthwise network."""

from app.catalog.runtimes import RUNTIMES
from benchmarks.runtimes import figures
from benchmarks.table import table
from benchmarks.training.common import INPUT, Room, accuracy, one_thread, room
from benchmarks.training.networks import narrow
from benchmarks.turns import Contender, take_turns
from tests.accuracy import fashion
from workers import runtimes
from workers.measure.feeds_file import save_feeds
from workers.measure.launched import EngineUnderTest
from workers.model_handle import ModelHandle

RUNTIME = "onnxruntime-cpu"
SAMPLES, CALIBRATED, TESTED = 20_000, 512, 10_000
FIRST = {"epochs": 6, "batch_size": 100, "learning_rate": 5e-3}
SECOND = {"epochs": 3, "batch_size": 100, "learning_rate": 1e-3}
LEAST_LOSS = 0.5  # points that `quantize-static` must cost here, or there is nothing to win
LAUNCHES, SECONDS = 5, 20.0


def run() -> tuple[str, bool]:
    """The table, and whether `qat` is at least as accurate and as fast."""
    one_thread()
    held = fashion.data()
    with room() as place:
        train = place.data(held.train[:SAMPLES], held.train_labels[:SAMPLES])
        calibration = place.data(held.train[:CALIBRATED])
        trained, _ = place.apply("finetune", place.program(narrow(), (1, 28, 28)), FIRST, {"train": train})
        static, _ = place.apply("quantize-static", trained, {}, {"calibration": calibration})
        aware, _ = place.apply("qat", trained, SECOND, {"train": train, "calibration": calibration})
        models = {"fp32": trained, "quantize-static": static, "qat": aware}
        scores = {
            name: accuracy(model, held.test[:TESTED], held.test_labels[:TESTED])
            for name, model in models.items()
        }
        contenders = [
            Contender(name, engine(place, model)) for name, model in models.items() if name != "fp32"
        ]
        feeds = place.new() / "feeds.npz"
        save_feeds(feeds, [{INPUT: held.test[:1]}])
        seen = take_turns(contenders, feeds, place.new(), launches=LAUNCHES, seconds=SECONDS)
    ratio = figures(contenders, seen)[1].speedup
    cost = scores["fp32"] - scores["quantize-static"]
    rows = [(name, f"{score:.2f}%", f"{score - scores['fp32']:+.2f}") for name, score in scores.items()]
    text = table(("Fashion-MNIST, 10,000 images", "accuracy", "points to fp32"), rows)
    text += (
        f"\n\nThe engine of `qat` is {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] as fast as that of `quantize-static` on "
        f"`{RUNTIME}`, one thread, in turns."
    )
    as_accurate = scores["qat"] >= scores["quantize-static"]
    return text, cost > LEAST_LOSS and as_accurate and ratio.high >= 0.97


def engine(place: Room, model: ModelHandle) -> EngineUnderTest:
    """An engine of one thread."""
    spec = RUNTIMES[RUNTIME]
    params = spec.params.model_validate({"threads": 1})
    if model.format not in spec.formats:
        raise ValueError(f"{RUNTIME} takes no {model.format}")
    built = runtimes.registry.alone(RUNTIME).build(model, params, place.new())
    return EngineUnderTest(RUNTIME, built.root, built.entry, params.model_dump(mode="json"))
