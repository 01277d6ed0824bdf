"""MiniLM with a probe of what sentences mean: its feed-forward layers at a lower rank, then `distill` without labels."""

import numpy as np

from benchmarks.runtimes import figures
from benchmarks.surgery.speed import CONTROL, LAUNCHES, SECONDS, engine, share_text
from benchmarks.table import table
from benchmarks.training.common import Room, one_core, room
from benchmarks.turns import Contender, take_turns
from tests.accuracy import sentiment
from tests.accuracy.sentiment import TOKENS, Tokens
from workers.assignment import DatasetFiles
from workers.context import Samples
from workers.conversion import open_model
from workers.measure.feeds_file import save_feeds
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import open_samples
from workers.surgery.counting import layers
from workers.surgery.factoring import opened
from workers.torch.program import TorchModel, export, save_program

RUNTIME = "onnxruntime-cpu"
FITTED, BATCH = 512, 50
OTHERS = ["*attention*", "*classifier*"]  # linear layers that stay
KEPT = 0.7  # of the feed-forward layers' parameters
DISTILLED = {"epochs": 1, "batch_size": 32, "learning_rate": 3e-5, "temperature": 1.0}
MOST_LOST = 1.0
ORIGINAL, ON_WEIGHTS, ON_DATA, TAUGHT = "original", "on weights", "on data", "… `distill`"


def run() -> tuple[str, bool]:
    """The table, and whether few enough parameters keep enough accuracy."""
    fitting, testing = sentiment.data()
    with room() as place:
        with one_core():
            original = program(place, fitting)
            whole, wide = parameters(original)
            params = {"keep_parameters": 1 - (1 - KEPT) * wide / whole, "ignore": OTHERS, "samples": FITTED}
            some, every = sentences(place, fitting.rows(slice(FITTED))), sentences(place, fitting)
            on_weights, _ = place.apply("low-rank", original, params, {})
            on_data, facts = place.apply("low-rank", original, params, {"calibration": some})
            taught, _ = place.apply("distill", on_data, DISTILLED, {"train": every}, teacher=original)
            models = {ORIGINAL: original, ON_WEIGHTS: on_weights, ON_DATA: on_data, TAUGHT: taught}
            scores = {name: accuracy(model, testing) for name, model in models.items()}
        contenders = [Contender(name, engine(place, models[name], RUNTIME)) for name in (ORIGINAL, TAUGHT)]
        contenders.append(Contender(CONTROL, contenders[0].engine))
        feeds = place.new() / "feeds.npz"
        save_feeds(feeds, [dict(feeds_of(testing.rows(slice(1))))])
        seen = take_turns(contenders, feeds, place.new(), launches=LAUNCHES, seconds=SECONDS)
    times = {one.contender.name: one for one in figures(contenders, seen)}
    before, after = facts["surgery"]["parameters"]
    share = 1 - (before - after) / wide
    lost = scores[ORIGINAL] - scores[TAUGHT]
    rows = [
        (
            name,
            "1" if name == ORIGINAL else f"{share:.3f}",
            f"{score:.2f}%",
            share_text(times[name]) if name in times else "",
        )
        for name, score in scores.items()
    ]
    goals = (
        (f"at most {KEPT:g} of the parameters", share <= KEPT + 1e-3),
        (f"at most {MOST_LOST:g} point lost", lost <= MOST_LOST),
    )
    told = "; ".join(f"{goal}, {'reached' if met else '**missed**'}" for goal, met in goals)
    text = table(("MiniLM", "parameters left", "accuracy", "latency left"), rows)
    text += (
        f"\n\nall-MiniLM-L6-v2 and a linear probe that tells whether sentences are meant well or ill; {len(testing.labels):,} to test, "
        f"{FITTED} to fit on, {len(fitting.labels):,} without labels to learn from the original, once each. The parameters are those of the "
        f"feed-forward layers: of the whole network, embeddings included, {after / before:.3f} are left. Latency: `{RUNTIME}`, one sentence "
        f"of {TOKENS} tokens, one thread, in turns; the original beside itself: {share_text(times[CONTROL])}. Goals: {told}."
    )
    return text, all(met for _, met in goals)


def program(place: Room, fitting: Tokens) -> ModelHandle:
    """The probe as an exported program."""
    folder = place.new()
    inputs = tuple(
        {"name": name, "dtype": "int64", "shape": ["batch", TOKENS]}
        for name in ("input_ids", "attention_mask")
    )
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 2]},)
    made = export(TorchModel(sentiment.probe(fitting), inputs, outputs))
    save_program(made, inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


def parameters(model: ModelHandle) -> tuple[int, int]:
    """Of the whole network, and of its feed-forward layers."""
    network, graph = opened(model)
    counts = layers(graph, network.inputs)
    wide = [
        one
        for one in counts
        if one.kind == "Linear" and "attention" not in one.name and "classifier" not in one.name
    ]
    return sum(one.parameters for one in counts), sum(one.parameters for one in wide)


def feeds_of(tokens: Tokens) -> dict[str, np.ndarray]:
    """Sentences as the network takes them."""
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}


def sentences(place: Room, tokens: Tokens) -> Samples:
    """Sentences without labels as a dataset."""
    folder = place.new()
    np.savez(folder / "data.npz", **feeds_of(tokens))  # type: ignore[arg-type]
    return open_samples(
        DatasetFiles(id="data", digest=tree_digest(folder), root=folder, format="npz", name="data")
    )


def accuracy(model: ModelHandle, tokens: Tokens) -> float:
    """The share of sentences whose class a model names, in percent."""
    network = open_model(model)
    named = [
        network.run(feeds_of(tokens.rows(slice(start, start + BATCH))))["logits"].argmax(1)
        for start in range(0, len(tokens.labels), BATCH)
    ]
    return 100 * float((np.concatenate(named) == tokens.labels).mean())
