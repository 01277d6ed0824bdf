"""One measuring session: outputs side by side, then times in turns. What it answers is shaped as `api.md` has it."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from app.catalog.metrics import METRICS
from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidParams
from workers import gpu
from workers.context import Samples
from workers.feeds import paired_plans
from workers.measure.accuracy import Accuracy
from workers.measure.environment import load_average, machine
from workers.measure.feeds_file import choose_feeds, save_feeds
from workers.measure.fidelity import Fidelity
from workers.measure.latency import LAUNCHES, EngineUnderTest, compare_latency
from workers.measure.overlap import overlap_warning
from workers.measure.rows import measurement_rows
from workers.measure.side_by_side import run_side_by_side
from workers.runtimes import registry
from workers.runtimes.base import Engine, LoadedEngine

FIDELITY_SAMPLES = 256  # where there is no metric: enough to compare, whatever the dataset's size
REPORT_EVERY = 32  # samples
SIDE_KEYS = (
    "latency", "throughput_per_s", "concurrency", "peak_memory_bytes", "peak_gpu_memory_bytes", "load_ms",
)  # fmt: skip
CLOCKS_DIFFER = 0.1
DISTURBED = 0.05  # of the timed runs' time spent waiting for a processor

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Compared:
    """What comparing outputs brought: part of each side and of the comparison."""

    baseline: dict[str, Any]
    optimized: dict[str, Any]
    comparison: dict[str, Any]
    batch: int
    warnings: list[str]


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
    read_by_passes: Sequence[Samples] = (),
    seconds: float,
    launches: int = LAUNCHES,
    reference: EngineUnderTest | None = None,
) -> dict[str, Any]:
    """Compare two engines in outputs, accuracy, speed and memory; nobody else may measure on the device meanwhile.

    `samples` are what both run on; `evaluation` is {metric, output} of the job, `budget` {max_drop}; `read_by_passes` is
    the data that passes read; `seconds` and `launches` are for `compare_latency`.

    `reference` is the model in its source framework, timed beside the others, its outputs not compared.

    The answer: `baseline`, `optimized` and `reference` (None where none is given) {latency, throughput_per_s, concurrency
    (runs under way for that), peak_memory_bytes, peak_gpu_memory_bytes, load_ms, accuracy}; `comparison` {speedup, control, fidelity,
    accuracy_drop, within_budget, max_drop, samples_needed}; `measurements`, the rows of `protocol.py`; `runs_ns`, by side every timed
    run [launches][blocks][runs]; `machine`; `warnings`.

    Raises:
        InvalidParams: a budget on a metric that has no drop.
        SignatureMismatch, InvalidDataset: samples, labels, engines and metric do not fit.
        InvalidModel, Crashed, OutOfMemory: an engine does not run.
    """
    _check_budget(evaluation, budget)
    scratch.mkdir(parents=True, exist_ok=True)
    conditions = machine()
    feeds = scratch / "feeds.npz"
    compared = _compare_outputs(baseline, optimized, samples, evaluation, budget, seed, report, feeds)
    gc.collect()  # engines and their threads are gone before anything is timed
    timed = compare_latency(
        baseline,
        optimized,
        feeds,
        scratch,
        batch=compared.batch,
        seconds=seconds,
        launches=launches,
        seed=seed,
        report=report,
        reference=reference,
    )
    sides = {
        name: {
            **{key: timed[name][key] for key in SIDE_KEYS},
            **outputs,
        }
        for name, outputs in (
            ("baseline", compared.baseline),
            ("optimized", compared.optimized),
            *([("reference", {"accuracy": None})] if reference else []),
        )
    }
    comparison = {
        "speedup": timed["speedup"],
        "control": {key: timed["control"][key] for key in ("value", "low", "high")},
        "speedup_over_reference": timed.get("speedup_over_reference"),
        **compared.comparison,
    }
    described = {
        **conditions,
        "pinned_cpus": timed["pinned_cpus"],
        "waited_share": timed["waited_share"],
        "load_average_after": load_average(),
        "gpu_after": gpu.state() if conditions["gpu"] else None,
        "runtimes": {
            side.runtime: dict(registry.alone(side.runtime).versions())
            for side in (baseline, optimized, reference)
            if side is not None
        },
    }
    warnings = [*compared.warnings, *_speed_warnings(comparison, timed)]
    if evaluation and (text := overlap_warning(read_by_passes, samples)):
        warnings.append(text)
    return {
        "reference": None,
        **sides,
        "comparison": comparison,
        "measurements": measurement_rows(timed, comparison, sides, described),
        "runs_ns": {name: timed[name]["runs_ns"] for name in sides},
        "machine": described,
        "warnings": warnings,
    }


def _check_budget(evaluation: Mapping[str, Any] | None, budget: Mapping[str, Any] | None) -> None:
    if budget and evaluation and METRICS[evaluation["metric"]].paired:
        raise InvalidParams(
            f"{evaluation['metric']} compares the two models, so nothing can drop: a budget cannot be held against it",
            param="budget.max_drop",
            hint=f"use one of {', '.join(sorted(name for name, spec in METRICS.items() if not spec.paired))}",
        )


def _compare_outputs(
    baseline: EngineUnderTest,
    optimized: EngineUnderTest,
    samples: Samples,
    evaluation: Mapping[str, Any] | None,
    budget: Mapping[str, Any] | None,
    seed: int,
    report: Report,
    feeds: Path,
) -> Compared:
    """Run both on the samples, in this process; write the feeds that they will be timed on."""
    engines = _load(baseline), _load(optimized)
    plan, _ = paired_plans(engines[0].inputs, engines[1].inputs, samples.inputs)
    save_feeds(feeds, choose_feeds(plan, samples))
    fidelity = Fidelity()
    accuracy = Accuracy(evaluation["metric"], evaluation.get("output")) if evaluation else None
    total = samples.count if evaluation else min(samples.count, FIDELITY_SAMPLES)
    told = -REPORT_EVERY
    for run in run_side_by_side(*engines, samples, total):
        if run.first - told >= REPORT_EVERY:
            told = run.first
            report(told, total, "comparing outputs")
        fidelity.observe(run)
        if accuracy:
            accuracy.observe(run)
    warnings = fidelity.warnings()
    comparison: dict[str, Any] = {
        "fidelity": fidelity.result(),
        "accuracy_drop": None,
        "within_budget": None,
        "max_drop": budget["max_drop"] if budget else None,
        "samples_needed": None,
    }
    before = after = None
    if accuracy:
        before, after = accuracy.of_baseline(seed), accuracy.of_optimized(seed)
        if drop := accuracy.drop(seed):
            comparison["accuracy_drop"] = {"value": drop.value, "low": drop.low, "high": drop.high}
        if budget:
            decision, needed = accuracy.within_budget(budget["max_drop"], seed)
            comparison |= {"within_budget": decision, "samples_needed": needed}
            if decision == "undecided":
                warnings.append(_undecided(samples.count, needed))
    return Compared({"accuracy": before}, {"accuracy": after}, comparison, plan.fixed_batch or 1, warnings)


def _load(side: EngineUnderTest) -> LoadedEngine:
    params = RUNTIMES[side.runtime].params.model_validate(side.params)
    return registry.alone(side.runtime).load(Engine(side.root, side.entry), params)


def _undecided(count: int, needed: int | None) -> str:
    if needed is None:
        return (
            f"{count} samples do not decide whether the accuracy is within its budget, and no number of more "
            "samples like these would: the drop is about as large as the budget"
        )
    return (
        f"{count} samples do not decide whether the accuracy is within its budget: about {needed} would, "
        "if more of them behave alike"
    )


def _speed_warnings(comparison: Mapping[str, Any], timed: Mapping[str, Any]) -> list[str]:
    texts = []
    control, pinned, waited = comparison["control"], timed["pinned_cpus"], timed["waited_share"]
    if comparison["speedup"]["verdict"] == "unstable":
        texts.append(
            "no verdict on the speed: two launches of the same original model differed by a factor of "
            f"{control['value']:.3g} ({control['low']:.3g} to {control['high']:.3g}) in this session, or the "
            "speed-up's interval is too wide; measure again on a quieter machine"
        )
    if waited is not None and waited > DISTURBED:
        texts.append(
            f"others were at work on the measuring processors: the engines waited for them {waited:.0%} of the time, "
            "so latencies are longer than on an idle machine, those of slow engines most"
        )
    texts += _clock_warnings(timed)
    if (threads := timed["baseline"]["latency"]["threads"]) > len(pinned):
        texts.append(f"{threads} threads were timed on {len(pinned)} processors, which is all that there are")
    return texts


def _clock_warnings(timed: Mapping[str, Any]) -> list[str]:
    """Whether the GPU ran slower for one engine than for the other, as it does when it gets hot or short of power."""
    clocks = [
        median(clock for launch in timed[side]["spread"]["gpu"] if (clock := launch["sm_mhz"]))
        for side in ("baseline", "optimized")
        if any(launch["sm_mhz"] for launch in timed[side]["spread"]["gpu"])
    ]
    if len(clocks) < 2 or min(clocks) > (1 - CLOCKS_DIFFER) * max(clocks):
        return []
    return [
        f"the GPU's clock was {clocks[0]:.0f} MHz for the baseline and {clocks[1]:.0f} MHz for the engine: it was hot, short of "
        "power, or idle in between; measure again, with its clocks fixed if you may (nvidia-smi --lock-gpu-clocks)"
    ]
