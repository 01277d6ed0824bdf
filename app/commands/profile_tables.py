"""A profile as people read it: the slowest layers, what holds them, and what would help."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.commands.tables import bytes_text, interval_text, ms_text

Json = Mapping[str, Any]


def print_profile(console: Console, job: Json) -> None:
    """The table of a `profile` job's result, and the lines below it."""
    found = job["result"]["profile"]
    latency = found["latency"]
    console.print(layers_table(found, f"{job['name'] or job['id']} on {found['target']['runtime']}"))
    interval = {"value": latency["p50_ms"], "low": latency["low_ms"], "high": latency["high_ms"]}
    console.print(
        f"[bold]latency[/]  {interval_text(interval, ' ms')} without a profiler, batch {found['batch']}, "
        f"{found['threads']} threads; with it {ms_text(found['profiled_ms'])}; all layers {ms_text(found['layers_ms'])}",
        soft_wrap=True,
    )
    for phase in found["phases"]:
        console.print(f"[bold]{escape(phase['name'])}[/]  {ms_text(phase['mean_ms'])}, {phase['share']:.0%}")
    if found["peak_memory_bytes"]:
        console.print(f"[bold]memory[/]   {bytes_text(found['peak_memory_bytes'])} of tensors at most")
    for text in (found["gap"], *found["notes"], *job["result"]["warnings"]):
        if text:
            console.print(f"[yellow]note[/]     {escape(text)}", soft_wrap=True)
    for piece in found["advice"]:
        console.print(advice_text(piece, job["id"]), soft_wrap=True)


def layers_table(found: Json, title: str) -> Table:
    """The slowest layers."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for column in ("layer", "operator", "time", "share", "over floor", "held by"):
        table.add_column(column, justify="right" if column in ("time", "share", "over floor") else "left")
    for layer in found["slowest"]:
        floor = layer["floor_ms"]
        cells = (
            ", ".join(layer["layers"]) or f"({layer['name']})",
            layer["operator"],
            ms_text(layer["mean_ms"]),
            f"{layer['share']:.0%}",
            f"{layer['mean_ms'] / floor:.1f}×" if floor else "–",
            layer["bound"] or "–",
        )
        table.add_row(*map(escape, cells))
    if (more := found["layers"] - len(found["slowest"])) > 0:
        rest = 1 - sum(layer["share"] for layer in found["slowest"])
        table.add_row(f"[dim]{more} more[/]", "", "", f"[dim]{max(rest, 0):.0%}[/]", "", "")
    return table


def advice_text(piece: Json, job_id: str) -> str:
    """One piece of advice, and the command that follows it."""
    gain = f" ({interval_text(piece['gain'], '×')} faster)" if piece["gain"] else ""
    follow = (
        f"\n         burnish jobs submit --advice {job_id}:{piece['number']}"
        f"{' --evaluate FILE --max-drop X' if piece['costs_accuracy'] else ''}"
        if piece["request"]
        else ""
    )
    return f"[bold green]advice {piece['number']}[/] {escape(piece['title'])}{gain}: {escape(piece['why'])}{follow}"
