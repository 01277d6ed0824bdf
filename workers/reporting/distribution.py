"""From every timed run to what a chart and a table need: quantiles, by launch and of all launches together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from app.reports.schemas import Distribution, LaunchTimes

PROBABILITIES = [*(round(percent / 100, 2) for percent in range(101)), 0.995, 0.999]
PROBABILITIES.sort()
DIGITS = 5  # significant ones: more than a clock of the kind has

Runs = Sequence[Sequence[Sequence[int]]]  # nanoseconds, [launches][blocks][runs]


def distribution(side: str, runs_ns: Runs) -> Distribution:
    """How the runs of one engine were distributed."""
    launches = [_flat([launch]) for launch in runs_ns]
    return Distribution(
        side=side,
        runs=sum(map(len, launches)),
        probabilities=PROBABILITIES,
        quantiles_ms=_quantiles(_flat(runs_ns)),
        launches=[
            LaunchTimes(
                runs=len(flat),
                quantiles_ms=_quantiles(flat),
                block_medians_ms=[_short(median(block) / 1e6) for block in launch],
            )
            for launch, flat in zip(runs_ns, launches, strict=True)
        ],
    )


def write_runs(path: Path, runs_ns: Mapping[str, Runs]) -> Path:
    """Every timed run as an `.npz`: for each side `SIDE_ns`, and beside it the numbers `SIDE_launch` and `SIDE_block` from 0 on."""
    arrays: dict[str, np.ndarray] = {}
    for side, launches in runs_ns.items():
        rows = [
            (run, number, place)
            for number, launch in enumerate(launches)
            for place, block in enumerate(launch)
            for run in block
        ]
        for name, column in zip(("ns", "launch", "block"), zip(*rows, strict=True), strict=True):
            arrays[f"{side}_{name}"] = np.array(column, np.int64 if name == "ns" else np.int32)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def _flat(runs_ns: Runs) -> np.ndarray:
    return np.array([run for launch in runs_ns for block in launch for run in block], dtype=np.float64)


def _quantiles(nanoseconds: np.ndarray) -> list[float]:
    return [_short(value) for value in np.quantile(nanoseconds / 1e6, PROBABILITIES)]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
