"""Before and after, side by side."""

from collections.abc import Iterator
from typing import Any

from app.reports.schemas import Report
from workers.bundle.text import bytes_text, throughput_text
from workers.reporting.blocks import Cell, Column, Section, Table
from workers.reporting.charts import SIDES
from workers.reporting.words import NOTHING, between, bytes_cell, change, ms_cell, number

ORDER = ("reference", "baseline", "optimized")
Json = dict[str, Any]


def comparison(report: Report) -> Section | None:
    """The table that everybody reads first."""
    result = report.result
    if "optimized" not in result:
        return None
    sides = [name for name in ORDER if result.get(name)]
    measured = {(row["side"], row["name"]): row for row in report.measurements}
    rows = [
        [Cell(label), *cells, Cell(changed)]
        for label, cells, changed in _rows(result, sides, measured)
        if any(cell.text != NOTHING for cell in cells)
    ]
    columns = [
        Column(""),
        *(Column(SIDES[name], numeric=True) for name in sides),
        Column("change", numeric=True),
    ]
    latency = result["optimized"].get("latency")
    told = (
        f"{latency['samples']:,} runs of the optimized engine in {latency['launches']} launches, batch {latency['batch']}, "
        f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}. Small print: 95% intervals; of memory and "
        "load time the least and the most of the launches. Change: optimized against original."
        if latency
        else "Nothing was measured on this engine."
    )
    return Section("before-and-after", "Before and after", [Table(told, columns, rows)])


def _rows(
    result: Json, sides: list[str], measured: dict[tuple[str, str], Json]
) -> Iterator[tuple[str, list[Cell], str]]:
    def interval(side: str, name: str, unit: str = "") -> str | None:
        return between(measured.get((side, name), {}), unit)

    def changed(key: str, inside: str | None = None) -> str:
        ends = [result[side].get(key) for side in ("baseline", "optimized")]
        before, after = [(one or {}).get(inside) for one in ends] if inside else ends
        return change(before, after)

    yield "size", [bytes_cell(result[side]["size_bytes"]) for side in sides], changed("size_bytes")
    for name in ("p50", "p90", "p99"):
        cells = [
            ms_cell(
                (result[side]["latency"] or {}).get(f"{name}_ms"), interval(side, f"latency_{name}", " ms")
            )
            for side in sides
        ]
        yield f"latency {name}", cells, changed("latency", f"{name}_ms")
    rates = [
        number(result[side]["throughput_per_s"], _rate(result[side]), interval(side, "throughput", " /s"))
        for side in sides
    ]
    yield "throughput", rates, changed("throughput_per_s")
    for label, name, key in (
        ("peak memory", "peak_memory", "peak_memory_bytes"),
        ("peak GPU memory", "peak_gpu_memory", "peak_gpu_memory_bytes"),
    ):
        cells = [bytes_cell(result[side].get(key), _spread(measured.get((side, name)))) for side in sides]
        yield label, cells, changed(key)
    loads = [ms_cell(result[side]["load_ms"], interval(side, "load", " ms")) for side in sides]
    yield "load time", loads, changed("load_ms")
    if accuracy := result["baseline"].get("accuracy"):
        scores = [result[side].get("accuracy") for side in sides]
        cells = [number(one["value"], None, between(one)) if one else Cell(NOTHING) for one in scores]
        drop = result["comparison"]["accuracy_drop"]
        yield accuracy["metric"], cells, NOTHING if drop is None else f"{0 - drop['value']:+.4f}"


def _rate(side: Json) -> str | None:
    return None if side["throughput_per_s"] is None else throughput_text(side)


def _spread(row: Json | None) -> str | None:
    if row is None or row["low"] is None:
        return None
    return f"{bytes_text(row['low'])} to {bytes_text(row['high'])}"
