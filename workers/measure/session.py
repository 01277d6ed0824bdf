"""One measuring session: outputs compared, then speed in turns; the figures and what they mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.runtimes import RUNTIMES
from app.measurements.compare import Interval as Spread
from app.measurements.compare import budget_decision, samples_needed_for_means, speed_verdict
from workers import runtimes
from workers.context import Samples
from workers.feeds import plan_feeds
from workers.measure.accuracy import bounds, run_both
from workers.measure.environment import machine
from workers.measure.latency import EngineUnderTest, Report, Side, Timings, time_in_turns
from workers.measure.overlap import overlap_warning
from workers.measure.statistics import Interval, ratio_interval
from workers.runtimes.base import Engine, LoadedEngine

POOR_SQNR_DB = 10.0
KEPT_LOAD = 0.5  # of a processor at work before we begin: timings will be noisy


def measure(
    baseline: EngineUnderTest,
    optimized: EngineUnderTest,
    *,
    samples: Samples,
    evaluation: Mapping[str, Any] | None,
    budget: Mapping[str, Any] | None,
    seed: int,
    report: Report,
    scratch: Path,
    read_by_passes: list[Samples],
) -> dict[str, Any]:
    """Compare an engine with the baseline on the same inputs.

    The answer is {baseline, optimized, comparison} as `api.md` has them (less sizes and `why`), and
    {machine, warnings, measurements}, where a measurement is {side, name, unit, value, low, high, samples}.

    Raises:
        SignatureMismatch: data or labels do not fit the engines.
        InvalidModel: outputs differ in name or shape.
        Crashed: a process died while it was timed.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    conditions = machine()
    before, after = load(baseline), load(optimized)
    fidelity, scores = run_both(before, after, samples, evaluation, report)
    feeds, batch = write_feeds(before, samples, scratch / "feeds.npz")
    del before, after  # their threads must not spin while others are timed

    timings = time_in_turns(baseline, optimized, feeds, scratch, report)
    speedup = ratio_interval(timings.baseline.block_medians, timings.optimized.block_medians, seed)
    control = ratio_interval(timings.baseline.block_medians, timings.control.block_medians, seed)
    accuracy_before, accuracy_after, drop = scores.figures() if scores else (None, None, None)
    threads = len(timings.cpus)
    comparison = {
        "speedup": {**bounds(speedup), "verdict": speed_verdict(spread(speedup), spread(control))},
        "control": {
            **bounds(control),
            "holds": speed_verdict(spread(control), spread(control)) != "unstable",
        },
        "fidelity": {"outputs": fidelity.figures()},
        "accuracy_drop": bounds(drop) if drop else None,
        **budget_answer(drop, budget, samples.count),
    }
    return {
        "baseline": {**timings.baseline.figures(batch, threads), "accuracy": accuracy_before},
        "optimized": {**timings.optimized.figures(batch, threads), "accuracy": accuracy_after},
        "comparison": comparison,
        "machine": {**conditions, "cpus_pinned": timings.cpus},
        "measurements": rows(timings, comparison, accuracy_before, accuracy_after),
        "warnings": [
            *fidelity_warnings(comparison["fidelity"]["outputs"]),
            *timing_warnings(comparison, conditions),
            *filter(None, (overlap_warning(read, samples) for read in read_by_passes if evaluation)),
        ],
    }


def load(engine: EngineUnderTest) -> LoadedEngine:
    """The engine in this process, to compare outputs; never to time it."""
    params = RUNTIMES[engine.runtime].params.model_validate(engine.params)
    return runtimes.registry.get(engine.runtime).load(Engine(engine.root, engine.entry), params)


def write_feeds(engine: LoadedEngine, samples: Samples, target: Path) -> tuple[Path, int]:
    """The feeds that are timed: the first sample (or the first fixed batch), and how many samples that is."""
    plan = plan_feeds(engine.inputs, samples.inputs)
    batch, _ = next(iter(samples.batches(plan.fixed_batch or 1)))
    feeds, _ = next(iter(plan.feeds(batch)))
    np.savez(target, **feeds)  # type: ignore[arg-type]
    return target, plan.fixed_batch or 1


def budget_answer(drop: Interval | None, budget: Mapping[str, Any] | None, samples: int) -> dict[str, Any]:
    """`within_budget`, and `samples_needed` where the data did not decide."""
    if drop is None or not budget or budget.get("max_drop") is None:
        return {"within_budget": None, "max_drop": None, "samples_needed": None}
    decision = budget_decision(spread(drop), budget["max_drop"])
    needed = (
        samples_needed_for_means(spread(drop), samples, budget["max_drop"])
        if decision == "undecided"
        else None
    )
    return {"within_budget": decision, "max_drop": budget["max_drop"], "samples_needed": needed}


def fidelity_warnings(outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a person must know of outputs that are far from the original's."""
    warnings = []
    for name, figures in outputs.items():
        if figures["not_finite"]:
            warnings.append(
                f"output {name!r} holds {figures['not_finite']} values that are not finite where the original's are: "
                "a number overflowed; keep the nodes before it in a wider precision"
            )
        elif figures["sqnr_db"] is not None and figures["sqnr_db"] < POOR_SQNR_DB:
            warnings.append(
                f"output {name!r} has lost most of its detail: its signal-to-noise ratio against the original is "
                f"{figures['sqnr_db']:.1f} dB"
            )
    return warnings


def timing_warnings(comparison: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[str]:
    """What a person must know of a session that was disturbed."""
    warnings = []
    control = comparison["control"]
    if not control["holds"]:
        warnings.append(
            f"the original timed against itself gave a ratio of {control['value']:.3f} "
            f"[{control['low']:.3f}, {control['high']:.3f}] in place of 1: the machine was too busy for a verdict; "
            "measure again when it is idle"
        )
    if conditions["load_average_1min"] > KEPT_LOAD * conditions["cpus_online"] + 1:
        warnings.append(f"the load average was {conditions['load_average_1min']} when measuring began")
    return warnings


def rows(
    timings: Timings,
    comparison: Mapping[str, Any],
    accuracy_before: Mapping[str, Any] | None,
    accuracy_after: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Every figure as a measurement, with the samples that it rests on."""
    found = [
        *side_rows("baseline", timings.baseline),
        *side_rows("optimized", timings.optimized),
        *side_rows("control", timings.control),
        row(
            "comparison", "speedup", "1", comparison["speedup"], {"launches": len(timings.baseline.launches)}
        ),
        row("comparison", "control", "1", comparison["control"], {"launches": len(timings.control.launches)}),
    ]
    for side, accuracy in (("baseline", accuracy_before), ("optimized", accuracy_after)):
        if accuracy:
            found.append(row(side, "accuracy", accuracy["unit"], accuracy, {"count": accuracy["samples"]}))
    if comparison["accuracy_drop"] and accuracy_after:
        drop = comparison["accuracy_drop"]
        found.append(
            row(
                "comparison",
                "accuracy_drop",
                accuracy_after["unit"],
                drop,
                {"count": accuracy_after["samples"]},
            )
        )
    return found


def side_rows(side: str, timed: Side) -> list[dict[str, Any]]:
    """Latency, load time and memory of one side."""
    ordered = timed.samples_ms
    middle = {"value": float(np.median(ordered)), "low": None, "high": None}
    blocks = [[round(ns / 1e6, 6) for ns in launch] for launch in timed.block_medians]
    return [
        row(side, "latency_p50", "ms", middle, {"count": len(ordered), "block_medians_ms": blocks}),
        row(side, "load", "ms", {"value": float(np.median(timed.load_ms))}, {"values": timed.load_ms}),
        row(
            side,
            "peak_memory",
            "B",
            {"value": float(np.median(timed.memory_bytes))},
            {"values": timed.memory_bytes},
        ),
    ]


def row(
    side: str, name: str, unit: str, figure: Mapping[str, Any], samples: dict[str, Any]
) -> dict[str, Any]:
    """One measurement."""
    return {
        "side": side,
        "name": name,
        "unit": unit,
        "value": figure["value"],
        "low": figure.get("low"),
        "high": figure.get("high"),
        "samples": samples,
    }


def spread(interval: Interval) -> Spread:
    """An interval for the pure rules of `app.measurements.compare`."""
    return Spread(interval.value, interval.low, interval.high)
