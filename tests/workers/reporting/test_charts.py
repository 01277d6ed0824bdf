"""Charts compile and draw what they are given: by the same Vega-Lite that the page has, in V8."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from app.reports.schemas import Report
from scripts import charts
from tests.workers.reporting.samples import HOSTILE, benchmarked, optimized, profiled
from workers.reporting.blocks import Chart, Folded
from workers.reporting.sections import sections

ROOT = Path(__file__).parents[3]
DRAWN = {  # title of the chart: shapes that it must hold, by the name that Vega gives their kind
    "Speed-up and control": {"symbol": 2, "rule": 3},
    "Accuracy drop": {"symbol": 1, "rule": 3},
    "Operations by layer": {"rect": 2},
    "A training step": {"rect": 2},
    "The slowest layers": {"rect": 3 + 3},
    "Time by operator": {"rect": 3},
    "Operations a second by operations a byte": {"symbol": 2, "line": 2},
    "What is to be gained": {"symbol": 1, "rule": 2},
    "Memory by operator": {"rect": 1},
    "Throughput": {"symbol": 5, "rule": 5},
    "Throughput by batch": {"symbol": 3, "rule": 3, "line": 1},
    "Latency by rate": {"symbol": 3, "rule": 1, "line": 1},
}
TIMED = {  # of both sides, and of an engine alone: a line a launch, a mark for each percentile that the runs carry
    "optimize": {
        "Share of runs that took at most so long": {"line": 10, "symbol": 5},
        "Block by block": {"symbol": 40},
    },
    "profile": {
        "Share of runs that took at most so long": {"line": 5, "symbol": 2},
        "Block by block": {"symbol": 20},
    },
}


def charts_of(report: Report) -> dict[str, dict[str, Any]]:
    blocks = [block for section in sections(report) for block in section.blocks]
    blocks += [inner for block in blocks if isinstance(block, Folded) for inner in block.blocks]
    return {block.title: block.spec for block in blocks if isinstance(block, Chart)}


def marks(spec: dict[str, Any]) -> dict[str, int]:
    """How many shapes of each kind the plot holds; those of legends and axes have other roles."""
    svg = vl_convert.vegalite_to_svg({**spec, "width": 600}, vl_version="6.4")
    counts: dict[str, int] = {}
    for kind, inside in re.findall(r'<g class="mark-(\w+) role-mark[^>]*>(.*?)</g>', svg, re.DOTALL):
        counts[kind] = counts.get(kind, 0) + len(re.findall(r"<(?:path|line|rect)", inside))
    return counts


@pytest.mark.parametrize(
    "report",
    [optimized(), profiled(), benchmarked(), optimized(HOSTILE)],
    ids=["optimize", "profile", "benchmark", "hostile"],
)
def test_every_chart_draws_what_it_is_given(report: Report) -> None:
    found, wanted = charts_of(report), DRAWN | TIMED.get(report.kind, {})
    assert set(found) <= set(wanted)
    assert len(found) >= 3
    for title, spec in found.items():
        drawn = marks(spec)
        assert {kind: drawn.get(kind, 0) for kind in wanted[title]} == wanted[title], title


def test_every_kind_of_chart_was_tried() -> None:
    assert {title for report in (optimized(), profiled(), benchmarked()) for title in charts_of(report)} == {
        *DRAWN,
        *TIMED["optimize"],
    }


def test_the_page_has_the_locked_library() -> None:
    assert charts.TARGET.read_text(encoding="utf-8").startswith(f"/*! {charts.versions()}\n"), (
        "run python -m scripts.charts"
    )


@pytest.mark.slow
def test_the_library_is_the_bundle_as_it_is() -> None:
    script = "from scripts import charts; print(charts.bundle() == charts.TARGET.read_text(encoding='utf-8'))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
