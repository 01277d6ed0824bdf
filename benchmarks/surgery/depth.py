"""MiniLM with a probe of what sentences mean, at equal operations: fewer branches, fewer channels, lower rank; then `distill`."""

from typing import Any

from benchmarks.runtimes import figures
from benchmarks.surgery.low_rank import accuracy, feeds_of, program, sentences
from benchmarks.surgery.speed import CONTROL, LAUNCHES, SECONDS, engine, share_text
from benchmarks.table import table
from benchmarks.training.common import Room, one_core, room
from benchmarks.turns import Contender, take_turns
from tests.accuracy import sentiment
from tests.accuracy.sentiment import TOKENS
from workers.context import Samples
from workers.measure.feeds_file import save_feeds
from workers.model_handle import ModelHandle
from workers.surgery.counting import layers, totals
from workers.surgery.factoring import opened

RUNTIME = "onnxruntime-cpu"
KEPT = 0.8  # of the operations
FITTED = 256
DISTILLED = {"epochs": 1, "batch_size": 32, "learning_rate": 3e-5, "temperature": 1.0}
ORIGINAL, DEPTH, CHANNELS, RANK, THEN = (
    "original",
    "`shrink-depth`",
    "`prune-channels`",
    "`low-rank`",
    ", then `distill`",
)


def run() -> tuple[str, bool]:
    """The table, and whether dropping branches keeps more than removing channels does, before and after training."""
    fitting, testing = sentiment.data()
    with room() as place:
        with one_core():
            original = program(place, fitting)
            some, every = sentences(place, fitting.rows(slice(FITTED))), sentences(place, fitting)
            made, branches = smaller(place, original, some)
            models = {ORIGINAL: original}
            for name, model in made.items():
                models[name] = model
                models[name + THEN], _ = place.apply(
                    "distill", model, DISTILLED, {"train": every}, teacher=original
                )
            scores = {name: accuracy(model, testing) for name, model in models.items()}
        shares = {name: operations(model) / operations(original) for name, model in models.items()}
        contenders = [Contender(name, engine(place, models[name], RUNTIME)) for name in (ORIGINAL, *made)]
        contenders.append(Contender(CONTROL, contenders[0].engine))
        feeds = place.new() / "feeds.npz"
        save_feeds(feeds, [dict(feeds_of(testing.rows(slice(1))))])
        seen = take_turns(contenders, feeds, place.new(), launches=LAUNCHES, seconds=SECONDS)
    times = {one.contender.name: one for one in figures(contenders, seen)}
    rows = [
        (
            name,
            f"{shares[name]:.3f}",
            f"{scores[name]:.2f}%",
            f"{scores[name] - scores[ORIGINAL]:+.2f}" if name != ORIGINAL else "–",
            share_text(times[name]) if name in times else "",
        )
        for name in models
    ]
    goals = tuple(
        (f"{when} above `prune-channels`", scores[DEPTH + then] >= scores[CHANNELS + then])
        for when, then in (("untrained", ""), ("after `distill`", THEN))
    )
    told = "; ".join(f"{goal}, {'reached' if met else '**missed**'}" for goal, met in goals)
    text = table(("MiniLM", "operations left", "accuracy", "points to the original", "latency left"), rows)
    text += (
        f"\n\nall-MiniLM-L6-v2 and a linear probe that tells whether sentences are meant well or ill; {len(testing.labels):,} to test, "
        f"{FITTED} to choose by and to fit on, {len(fitting.labels):,} without labels to learn from the original, once each. `shrink-depth` dropped "
        f"{', '.join(branches)}; `prune-channels` is `magnitude-l2`; `low-rank` is given the share of the parameters that leaves as many operations. Latency: "
        f"`{RUNTIME}`, one sentence of {TOKENS} tokens, one thread, in turns; the original beside itself: {share_text(times[CONTROL])}. "
        f"Goals: `shrink-depth` {told}."
    )
    return text, all(met for _, met in goals)


def smaller(place: Room, original: ModelHandle, some: Samples) -> tuple[dict[str, ModelHandle], list[str]]:
    """What each pass leaves, and the branches that were dropped: as many operations as these leave are the others' share."""
    shallow, facts = place.apply("shrink-depth", original, {"to": KEPT, "samples": FITTED}, {"train": some})
    share = operations(shallow) / operations(original)
    narrow, _ = place.apply(
        "prune-channels", original, {"target": "flops", "to": share, "samples": FITTED}, {"train": some}
    )
    names = [f"`{row['name'].removeprefix('encoder.encoder.')}`" for row in facts["surgery"]["layers"]]
    return {DEPTH: shallow, CHANNELS: narrow, RANK: at_rank(place, original, some, share)}, names


def at_rank(place: Room, original: ModelHandle, some: Samples, share: float) -> ModelHandle:
    """At a lower rank, with a share of the operations: each weight of a linear layer is two of them for each token."""
    network, graph = opened(original)
    parameters, flops = totals(layers(graph, network.inputs))
    params: dict[str, Any] = {
        "keep_parameters": 1 - (1 - share) * flops / (2 * TOKENS) / parameters,
        "ignore": ["*classifier*"],
        "samples": FITTED,
    }
    made, _ = place.apply("low-rank", original, params, {"calibration": some})
    return made


def operations(model: ModelHandle) -> int:
    """For one sentence."""
    network, graph = opened(model)
    return totals(layers(graph, network.inputs))[1]
