"""A session's numbers as rows of the measurements table: each with unit, interval, samples and machine."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.catalog.metrics import METRICS

Json = Mapping[str, Any]


def measurement_rows(
    timed: Json, comparison: Json, sides: Mapping[str, Json], machine: Json
) -> list[dict[str, Any]]:
    """`measurements` of `protocol.py`. `timed` is the answer of `compare_latency`, the rest that of `session.measure`."""
    rows = [row for name, side in sides.items() for row in _side_rows(name, side, timed[name])]
    rows += _comparison_rows(timed, comparison, sides)
    return [{**row, "machine": dict(machine)} for row in rows]


def _side_rows(name: str, side: Json, timed: Json) -> Iterator[dict[str, Any]]:
    latency = side["latency"]
    runs = {"count": latency["samples"], **{key: latency[key] for key in ("launches", "batch", "threads")}}
    interval = timed["p50_interval_ms"]
    yield _row(
        name,
        "latency_p50",
        "ms",
        latency["p50_ms"],
        {**runs, "block_medians": timed["block_medians_ms"]},
        (min(interval["low"], latency["p50_ms"]), max(interval["high"], latency["p50_ms"])),
    )
    for percent in ("p90", "p99"):
        if latency[f"{percent}_ms"] is not None:
            yield _row(name, f"latency_{percent}", "ms", latency[f"{percent}_ms"], runs)
    yield _row(name, "latency_mean", "ms", latency["mean_ms"], runs)
    several = timed["throughput_blocks"] or {"low": None, "high": None, "count": runs["count"]}
    yield _row(
        name,
        "throughput",
        "1/s",
        side["throughput_per_s"],
        {**runs, "count": several["count"], "concurrency": side["concurrency"]},
        (several["low"], several["high"]),
    )
    loads, peaks = timed["spread"]["load_ms"], timed["spread"]["peak_bytes"]
    yield _row(
        name, "load", "ms", side["load_ms"], {"count": len(loads), "values": loads}, (min(loads), max(loads))
    )
    yield _row(
        name,
        "peak_memory",
        "bytes",
        side["peak_memory_bytes"],
        {"count": len(peaks), "values": peaks, "resident_bytes": timed["spread"]["resident_bytes"]},
        (min(peaks), max(peaks)),
    )
    if side["peak_gpu_memory_bytes"] is not None:
        on_gpu = [launch["memory_bytes"] for launch in timed["spread"]["gpu"]]
        yield _row(
            name,
            "peak_gpu_memory",
            "bytes",
            side["peak_gpu_memory_bytes"],
            {"count": len(on_gpu), "launches": timed["spread"]["gpu"]},
            (min(on_gpu), max(on_gpu)),
        )
    if accuracy := side["accuracy"]:
        yield _row(
            name,
            "accuracy",
            METRICS[accuracy["metric"]].unit,
            accuracy["value"],
            {"count": accuracy["samples"], "metric": accuracy["metric"]},
            (accuracy["low"], accuracy["high"]),
        )


def _comparison_rows(timed: Json, comparison: Json, sides: Mapping[str, Json]) -> Iterator[dict[str, Any]]:
    speedup, control = comparison["speedup"], timed["control"]
    launches = {"count": sides["baseline"]["latency"]["launches"], "plan": timed["plan"]}
    yield _row(
        "comparison",
        "speedup",
        "1",
        speedup["value"],
        {**launches, "verdict": speedup["verdict"]},
        (speedup["low"], speedup["high"]),
    )
    yield _row(
        "comparison",
        "control",
        "1",
        control["value"],
        {**launches, "block_medians": control["block_medians_ms"]},
        (control["low"], control["high"]),
    )
    if referred := comparison["speedup_over_reference"]:
        yield _row(
            "comparison",
            "speedup_over_reference",
            "1",
            referred["value"],
            {"count": launches["count"], "verdict": referred["verdict"]},
            (referred["low"], referred["high"]),
        )
    if drop := comparison["accuracy_drop"]:
        accuracy = sides["optimized"]["accuracy"]
        yield _row(
            "comparison",
            "accuracy_drop",
            METRICS[accuracy["metric"]].unit,
            drop["value"],
            {"count": accuracy["samples"], "metric": accuracy["metric"]},
            (drop["low"], drop["high"]),
        )


def _row(
    side: str,
    name: str,
    unit: str,
    value: float,
    samples: Json,
    interval: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    return {
        "side": side,
        "name": name,
        "unit": unit,
        "value": value,
        "low": interval[0],
        "high": interval[1],
        "samples": dict(samples),
    }
