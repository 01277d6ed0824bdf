"""Where the time goes: the slowest layers, all of them, and their operators."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from app.profiles.schemas import Layer
from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Chart, Code, Column, Folded, Section, Table, Text
from workers.reporting.charts import bars
from workers.reporting.words import NOTHING, amount, ms_cell, number, told

SLOWEST = 10
OPERATORS = 15
BRIEF = 20
REPEATED = ("calls", "precision", "runs on")
BOUNDS = {
    "compute": "var(--compute)",
    "memory": "var(--memory)",
    "overhead": "var(--overhead)",
    None: "var(--baseline)",
}


def layers(report: Report) -> Section | None:
    """The table of layers, the ten slowest and the time by operator as charts."""
    profile = report.profile
    if profile is None or not profile.layers:
        return None
    found = sorted(profile.layers, key=lambda layer: -layer.mean_ms)
    blocks: list[Block] = [_slowest(found[:SLOWEST]), _operators(found)]
    table = _table(found)
    blocks.append(Folded(f"All {len(found)} layers", [table]) if len(found) > BRIEF else table)
    return Section("layers", "Layers", blocks)


def named(layer: Layer) -> str:
    """A layer as the model's owner knows it, or as the runtime calls it."""
    return ", ".join(layer.layers) or f"({layer.name})"


def _slowest(found: Sequence[Layer]) -> Chart:
    rows = [
        {
            "name": f"{place}. {named(layer)}",
            "value": layer.mean_ms,
            "floor": layer.floor_ms,
            "kind": BOUNDS[layer.bound],
            "operator": layer.operator,
            "share": layer.share,
            "held": layer.bound or "nobody knows what",
        }
        for place, layer in enumerate(found, 1)
    ]
    share = sum(layer.share for layer in found)
    words = (
        f"The slowest {len(found)} take {share:.0%} of the time of all layers."
        if share < 0.995
        else "All layers."
    )
    if any(layer.floor_ms is not None for layer in found):
        words += (
            " Upright lines are the least time that the device's peaks allow. Blue is held by computing, orange by "
            "memory, grey by neither."
        )
    more = [
        {"field": "operator", "title": "operator"},
        {"field": "share", "format": ".1%", "title": "share"},
        {"field": "floor", "format": ".3~g", "title": "floor, ms"},
        {"field": "held", "title": "held by"},
    ]
    return Chart("The slowest layers", words, bars(rows, "ms", more=more, floor=True))


def _operators(found: Sequence[Layer]) -> Chart:
    times: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for layer in found:
        times[layer.operator] += layer.mean_ms
        counts[layer.operator] += 1
    ranked = sorted(times.items(), key=lambda one: -one[1])
    rows = [
        {"name": name, "value": ms, "kind": "var(--optimized)", "rows": counts[name]}
        for name, ms in ranked[:OPERATORS]
    ]
    first, most = ranked[0]
    words = f"{first} takes {most / (sum(times.values()) or 1):.0%} of the time of all layers, in {counts[first]} of them."
    more = [{"field": "rows", "title": "layers"}]
    return Chart("Time by operator", words, bars(rows, "ms", more=more))


def _table(found: Sequence[Layer]) -> Table:
    columns = [
        Column("layer"),
        Column("operator"),
        Column("time", numeric=True),
        Column("share", numeric=True),
        Column("calls", numeric=True),
        Column("precision"),
        Column("FLOP", numeric=True),
        Column("moved", numeric=True),
        Column("over floor", numeric=True),
        Column("held by"),
        Column("runs on"),
    ]
    columns, rows = told(columns, [_row(layer) for layer in found])
    caption = "Every row of the profile, the slowest first. Names in parentheses are the runtime's own."
    alike = {
        column.title: rows[0][place].text
        for place, column in enumerate(columns)
        if _alike(column, rows, place)
    }
    if alike:
        caption += f" In every row: {', '.join(f'{title} {text}' for title, text in alike.items())}."
    kept = [place for place, column in enumerate(columns) if column.title not in alike]
    return Table(
        caption,
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        sortable=True,
        brief=BRIEF,
    )


def _alike(column: Column, rows: Sequence[Sequence[Cell]], place: int) -> bool:
    """Whether a column says the same in every row, and so needs no room."""
    return column.title in REPEATED and len({str(row[place].text) for row in rows}) == 1


def _row(layer: Layer) -> list[Cell]:
    over = layer.mean_ms / layer.floor_ms if layer.floor_ms else None
    name: Text = [Code(named(layer))]
    return [
        Cell(name, None if not layer.layers or layer.name in layer.layers else layer.name),
        Cell([Code(layer.operator)]),
        ms_cell(layer.mean_ms),
        number(layer.share, f"{layer.share:.1%}"),
        number(layer.calls, f"{layer.calls:g}"),
        Cell(layer.precision or NOTHING),
        number(layer.flops, None if layer.flops is None else amount(layer.flops)),
        number(layer.moved_bytes, None if layer.moved_bytes is None else amount(layer.moved_bytes, "B")),
        number(over, None if over is None else f"{over:.1f}×"),
        Cell(layer.bound or NOTHING),
        Cell(layer.place or NOTHING),
    ]
