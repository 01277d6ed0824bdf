"""The first lines of a report: what came of it, in a sentence and a few numbers."""

from typing import Any

from app.benchmarks.schemas import Benchmark
from app.profiles.schemas import Profile
from app.reports.schemas import Report
from workers.bundle.text import bytes_text, ms_text
from workers.reporting.blocks import Code, Headline, Strong, Text, Tile, Tone
from workers.reporting.charts import SIDES
from workers.reporting.words import TONES, amount, between, change

Json = dict[str, Any]
BUDGETS: dict[Any, tuple[str, Tone]] = {
    True: ("kept", "good"),
    False: ("broken", "bad"),
    "undecided": ("undecided", "warn"),
}
SPEEDS = {
    "faster": "{value:.3g}× faster",
    "slower": "{inverse:.3g}× slower",
    "no_difference": "No faster and no slower",
    "unstable": "No verdict on the speed",
}


def headline(report: Report) -> Headline:
    """What a reader should know who reads nothing else."""
    if "optimized" in report.result:
        return _optimized(report)
    if report.profile is not None:
        return _profiled(report, report.profile)
    if report.benchmark is not None:
        return _benchmarked(report, report.benchmark)
    sentence: Text = [Code(report.subject["name"]), " on ", Code(report.target["runtime"]), "."]
    return Headline(_title(report), sentence)


def _title(report: Report) -> str:
    words = {"optimize": "optimized for", "profile": "profiled on", "benchmark": "benchmarked on"}
    return f"{report.subject['name']}, {words[report.kind]} {report.target['runtime']}"


def _optimized(report: Report) -> Headline:
    result, comparison = report.result, report.result["comparison"]
    told: list[str | Code | Strong] = []
    tone: Tone = "plain"
    tiles = [
        Tile(
            "size",
            bytes_text(result["optimized"]["size_bytes"]),
            f"{comparison['size_ratio']:.1%} of {bytes_text(result['baseline']['size_bytes'])}",
        )
    ]
    if speedup := comparison["speedup"]:
        tone = TONES[speedup["verdict"]]
        words = SPEEDS[speedup["verdict"]].format(value=speedup["value"], inverse=1 / speedup["value"])
        told += [Strong(words), f" than the {SIDES['baseline']}" if tone in ("good", "bad") else ""]
        ratio = "" if tone == "good" else f"speed-up {speedup['value']:.4g}×, "
        told += [f" ({ratio}95% interval {between(speedup)})"]
        tiles.insert(0, Tile("speed-up", f"{speedup['value']:.3g}×", between(speedup) or "", tone))
    else:
        tone = "warn"
        told += [Strong("Unverified"), f": {result.get('unverified_reason', 'nothing was measured')}"]
    told += [", at ", Strong(f"{comparison['size_ratio']:.0%}"), " of the size"]
    if drop := comparison["accuracy_drop"]:
        metric = result["optimized"]["accuracy"]["metric"]
        told += [f"; {metric} drops by {drop['value']:.4g} ({between(drop, digits=2)})"]
        tiles.append(Tile(f"{metric} lost", f"{drop['value']:.4g}", between(drop, digits=2) or ""))
    if (budget := comparison["within_budget"]) is not None:
        word, of_budget = BUDGETS[budget]
        tone = of_budget if of_budget != "good" else tone
        told += [": the budget of ", f"{comparison['max_drop']:g}", " is ", Strong(word)]
        tiles.append(Tile("budget", word, f"at most {comparison['max_drop']:g} lost", of_budget))
    told.append(".")
    if latency := result["optimized"]["latency"]:
        before = result["baseline"]["latency"]["p50_ms"]
        tiles.insert(
            1,
            Tile(
                "latency p50",
                ms_text(latency["p50_ms"]),
                f"{change(before, latency['p50_ms'])}, was {ms_text(before)}",
            ),
        )
    return Headline(_title(report), told, tone, tiles)


def _profiled(report: Report, profile: Profile) -> Headline:
    latency = profile.latency
    some = 10 if len(profile.layers) > 20 else 3
    slowest = sorted(profile.layers, key=lambda layer: -layer.mean_ms)[:some]
    told: list[str | Code | Strong] = [
        Strong(ms_text(latency["p50_ms"])),
        f" for a batch of {profile.batch} ({latency['low_ms']:.4g} to {latency['high_ms']:.4g} ms), in {len(profile.layers)} layers",
    ]
    tiles = [
        Tile(
            "step" if profile.of == "training" else "latency p50",
            ms_text(latency["p50_ms"]),
            f"{latency['low_ms']:.4g} to {latency['high_ms']:.4g} ms",
        ),
        Tile("layers", f"{len(profile.layers)}", f"{ms_text(profile.layers_ms)} together"),
    ]
    if len(profile.layers) > some:
        share = sum(layer.share for layer in slowest)
        told.append(f"; the {len(slowest)} slowest take {share:.0%} of their time")
        tiles.append(Tile(f"the {len(slowest)} slowest", f"{share:.0%}", "of the layers' time"))
    told.append(".")
    if gains := [piece for piece in profile.advice if piece.gain]:
        best = max(gains, key=lambda piece: piece.gain.value if piece.gain else 0.0)
        assert best.gain is not None
        told.append(f" {best.title} should make it {best.gain.value:.3g}× as fast.")
        tiles.append(Tile("to be gained", f"{best.gain.value:.3g}×", best.title, "good"))
    if profile.peak_memory_bytes is not None:
        tiles.append(Tile("peak memory", bytes_text(profile.peak_memory_bytes), "of tensors"))
    return Headline(_title(report), told, "plain", tiles)


def _benchmarked(report: Report, found: Benchmark) -> Headline:
    told: list[str | Code | Strong] = []
    measured = [point for point in found.points if point.status != "failed"]
    tiles = []
    rated = [point for point in measured if point.throughput is not None]
    best = max(rated, key=lambda point: point.throughput.value if point.throughput else 0.0, default=None)
    if best is not None and best.throughput is not None:
        where = f"{best.scenario}, batch {best.batch}, {best.threads} threads, {best.streams} streams"
        told += [Strong(f"{amount(best.throughput.value)} samples a second"), f" at best ({where})"]
        tiles.append(Tile("best throughput", f"{amount(best.throughput.value)} /s", where))
    queried = [point for point in measured if point.latency is not None]
    quickest = min(queried, key=lambda point: point.latency.p50_ms if point.latency else 0.0, default=None)
    if quickest is not None and quickest.latency is not None:
        latency = quickest.latency
        tail = "" if latency.p99_ms is None else f"p99 {ms_text(latency.p99_ms)}"
        told += [
            "; ",
            Strong(ms_text(latency.p50_ms)),
            f" a query at best (p50; {quickest.scenario}, batch {quickest.batch})",
        ]
        tiles.append(Tile("quickest query, p50", ms_text(latency.p50_ms), tail))
    start = found.cold_start.import_ms + found.cold_start.load_ms + found.cold_start.first_ms
    tiles.append(Tile("cold start", ms_text(start), "to the first answer"))
    failed = len(found.points) - len(measured)
    tiles.append(
        Tile(
            "points",
            str(len(found.points)),
            f"{failed} failed" if failed else "",
            "warn" if failed else "plain",
        )
    )
    return Headline(_title(report), [*told, "."], "plain", tiles)
