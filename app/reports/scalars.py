"""A report's numbers as a flat list, as experiment trackers take them. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from app.reports.schemas import Distribution, Report

UNITS = {"ms": "_ms", "bytes": "_bytes", "1/s": "_per_s", "1": ""}


@dataclass(frozen=True)
class Scalar:
    """A number of one side; `step` counts where there are several of a name, in the order in which they were taken."""

    side: str
    name: str
    value: float
    step: int = 0


def scalars(report: Report) -> list[Scalar]:
    """Measurements with the ends of their intervals, sizes, block medians, and a profile's time by operator."""
    return [*_measured(report), *_sizes(report), *_blocks(report.distributions), *_profiled(report)]


def _measured(report: Report) -> Iterator[Scalar]:
    for row in report.measurements:
        name = row["name"] + UNITS.get(row["unit"], f"_{row['unit']}")
        for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            if row[key] is not None:
                yield Scalar(row["side"], f"{name}{suffix}", row[key])


def _sizes(report: Report) -> Iterator[Scalar]:
    for side in ("reference", "baseline", "optimized"):
        if (found := report.result.get(side)) and found.get("size_bytes") is not None:
            yield Scalar(side, "size_bytes", found["size_bytes"])


def _blocks(distributions: list[Distribution]) -> Iterator[Scalar]:
    for one in distributions:
        medians = [median for launch in one.launches for median in launch.block_medians_ms]
        for step, median in enumerate(medians):
            yield Scalar(one.side, "latency_block_median_ms", median, step)


def _profiled(report: Report) -> Iterator[Scalar]:
    if (profile := report.profile) is None:
        return
    for key, value in profile.latency.items():
        if isinstance(value, int | float):
            yield Scalar("engine", f"latency_{key}", value)
    yield Scalar("engine", "layers_ms", profile.layers_ms)
    if profile.peak_memory_bytes is not None:
        yield Scalar("engine", "peak_memory_bytes", profile.peak_memory_bytes)
    times: defaultdict[str, float] = defaultdict(float)
    for layer in profile.layers:
        times[layer.operator] += layer.mean_ms
    for operator, value in times.items():
        yield Scalar("engine", f"operator_ms/{operator}", value)
    for phase in profile.phases:
        yield Scalar("engine", f"phase_ms/{phase.name}", phase.mean_ms)
