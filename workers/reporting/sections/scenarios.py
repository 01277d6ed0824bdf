"""Every point of a benchmark."""

from app.benchmarks.schemas import Point
from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Chart, Column, Section, Table, Tone
from workers.reporting.charts import intervals
from workers.reporting.words import NOTHING, amount, bytes_cell, ms_cell, number, told

TONES: dict[str, Tone] = {"measured": "plain", "unstable": "warn", "failed": "bad"}
BRIEF = 25


def scenarios(report: Report) -> Section | None:
    """What was measured in each scenario, with each combination of what was varied."""
    if report.benchmark is None:
        return None
    points = report.benchmark.points
    blocks: list[Block] = []
    rows = [
        {"name": name_of(point), "kind": "var(--optimized)", **point.throughput.model_dump()}
        for point in points
        if point.throughput is not None
    ]
    if rows:
        words = "Samples a second, with their 95% intervals; of scenario server the highest rate that kept its bound, up to the next."
        blocks.append(Chart("Throughput", words, intervals(rows, "samples a second")))
    blocks.append(_table(points))
    return Section("scenarios", "Scenarios", blocks)


def name_of(point: Point) -> str:
    """A point in a few words."""
    return f"{point.scenario}, batch {point.batch}, {point.threads}×{point.streams}"


def _table(points: list[Point]) -> Table:
    columns = [
        Column("scenario"),
        *(
            Column(title, numeric=True)
            for title in ("batch", "threads", "streams", "samples/s", "p50", "p90", "p99", "memory")
        ),
        Column("J a sample", numeric=True),
        Column("state"),
    ]
    caption = (
        "After MLPerf Inference. Latencies are of a query (all its samples); a percentile is given where ten queries lie beyond it. "
        "Memory is of all processes."
    )
    return Table(caption, *told(columns, [_row(point) for point in points]), sortable=True, brief=BRIEF)


def _row(point: Point) -> list[Cell]:
    rate = point.throughput
    state = point.status if point.problem is None else f"failed: {point.problem.get('detail', 'unknown')}"
    again = None if point.attempts == 1 else "measured twice"
    return [
        Cell(point.scenario),
        *(number(value, str(value)) for value in (point.batch, point.threads, point.streams)),
        Cell(NOTHING)
        if rate is None
        else Cell(amount(rate.value), f"{amount(rate.low)} to {amount(rate.high)}", rate.value),
        *map(ms_cell, _percentiles(point)),
        bytes_cell(point.peak_memory_bytes),
        number(point.energy.joules_per_sample if point.energy else None),
        Cell(state, again, tone=TONES[point.status]),
    ]


def _percentiles(point: Point) -> tuple[float | None, float | None, float | None]:
    latency = point.latency
    return (None, None, None) if latency is None else (latency.p50_ms, latency.p90_ms, latency.p99_ms)
