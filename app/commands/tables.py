"""A job's result as people read it: before and after, what it cost, why, and what to beware of."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Side = Mapping[str, Any]

VERDICTS = {
    "faster": "[green]faster[/]",
    "no_difference": "no difference",
    "slower": "[red]slower[/]",
    "unstable": "[yellow]unstable: the machine was too busy for a verdict[/]",
}
BUDGETS = {
    True: "[green]yes[/]",
    False: "[bold red]no[/]",
    "undecided": "[yellow]undecided: too few samples[/]",
}


def print_result(console: Console, result: Mapping[str, Any], title: str) -> None:
    """The table of an `optimize` result, and the lines below it."""
    console.print(result_table(result, title))
    for line in result_lines(result):
        console.print(line, soft_wrap=True)


def result_table(result: Mapping[str, Any], title: str) -> Table:
    """Before and after, side by side; with the source framework where it was measured."""
    sides: list[tuple[str, Side]] = [("original", result["baseline"]), ("optimized", result["optimized"])]
    if result.get("reference"):
        sides.insert(0, ("reference", result["reference"]))
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    table.add_column("")
    for name, _ in sides:
        table.add_column(name, justify="right")
    for label, cells in _rows([side for _, side in sides]):
        if any(cell is not None for cell in cells):
            table.add_row(escape(label), *("–" if cell is None else escape(cell) for cell in cells))
    return table


def targets_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """A job of several targets: a row each. Latencies are of one session a target; speed-ups are against its own baseline."""
    table = Table(title="targets", title_justify="left", title_style="bold", header_style="bold")
    for column in ("target", "status", "size", "latency p50", "speed-up", "accuracy", "drop"):
        table.add_column(column, justify="left" if column in ("target", "status") else "right")
    for name, job in named_by_target(jobs):
        result = job["result"] or {}
        side, comparison = result.get("optimized") or {}, result.get("comparison") or {}
        cells = [
            _maybe(bytes_text, side.get("size_bytes")),
            _maybe(ms_text, (side.get("latency") or {}).get("p50_ms")),
            _maybe(lambda value: interval_text(value, "×"), comparison.get("speedup")),
            _maybe(interval_text, side.get("accuracy")),
            _maybe(interval_text, comparison.get("accuracy_drop")),
        ]
        status = job["status"] if job["problem"] is None else f"{job['status']}: {job['problem']['code']}"
        table.add_row(
            escape(name), escape(status), *("–" if cell is None else escape(cell) for cell in cells)
        )
    return table


def named_by_target(jobs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each job under its target's runtime; the second of one runtime has a `-2` behind it, and so on."""
    seen: Counter[str] = Counter()
    for job in jobs:
        runtime = job["targets"][0]["runtime"]
        seen[runtime] += 1
        yield runtime if seen[runtime] == 1 else f"{runtime}-{seen[runtime]}", job


def _rows(sides: list[Side]) -> Iterator[tuple[str, list[str | None]]]:
    yield "size", [_maybe(bytes_text, side.get("size_bytes")) for side in sides]
    for name in ("p50", "p90", "p99"):
        yield (
            f"latency {name}",
            [_maybe(ms_text, (side.get("latency") or {}).get(f"{name}_ms")) for side in sides],
        )
    yield "throughput", [_throughput(side) for side in sides]
    yield "peak memory", [_maybe(bytes_text, side.get("peak_memory_bytes")) for side in sides]
    if any(side.get("peak_gpu_memory_bytes") is not None for side in sides):
        yield "peak GPU memory", [_maybe(bytes_text, side.get("peak_gpu_memory_bytes")) for side in sides]
    yield "load time", [_maybe(ms_text, side.get("load_ms")) for side in sides]
    accuracies = [side.get("accuracy") for side in sides]
    metric = next((one["metric"] for one in accuracies if one and one.get("metric")), "accuracy")
    yield metric, [_maybe(interval_text, one) for one in accuracies]


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Speed-up, size, accuracy, fidelity, the budget, why, and warnings: a line each, with markup."""
    comparison = result["comparison"]
    if (speedup := comparison.get("speedup")) is not None:
        verdict = VERDICTS.get(speedup.get("verdict"), str(speedup.get("verdict")))
        value = interval_text(speedup, "×") if speedup.get("value") is not None else ""
        yield f"[bold]speed-up[/]    {value} {verdict}"
    if (over := comparison.get("speedup_over_reference")) is not None:
        yield f"[bold]over source[/] {interval_text(over, '×')} {VERDICTS.get(over.get('verdict'), '')}"
    if comparison.get("size_ratio") is not None:
        yield f"[bold]size[/]        {comparison['size_ratio']:.1%} of the original"
    if comparison.get("accuracy_drop"):
        yield f"[bold]drop[/]        {interval_text(comparison['accuracy_drop'])}"
    for name, fidelity in (comparison.get("fidelity") or {}).get("outputs", {}).items():
        yield f"[bold]fidelity[/]    {escape(name)}: {fidelity_text(fidelity)}"
    for name, fidelity in (comparison.get("model_fidelity") or {}).get("outputs", {}).items():
        yield f"[bold]model[/]       {escape(name)}, of the model and not of the engine: {fidelity_text(fidelity)}"
    if comparison.get("within_budget") is not None:
        budget = comparison["within_budget"]
        yield f"[bold]in budget[/]   {BUDGETS.get(budget, escape(str(budget)))}"
    if (verification := result.get("verification")) not in (None, "verified"):
        why = f": {result['unverified_reason']}" if result.get("unverified_reason") else ""
        yield f"[bold yellow]verification[/] {escape(f'{verification}{why}')}"
    latency = result["optimized"].get("latency") or {}
    if latency.get("samples") is not None:
        yield (
            f"[dim]measured on {latency['samples']} runs in {latency.get('launches')} launches, "
            f"batch {latency.get('batch')}, {latency.get('threads')} threads; intervals are 95%[/]"
        )
    if (advice := result.get("advice")) is not None:
        yield f"[bold]advice[/]      {escape(followed_text(advice))}"
    for text in comparison.get("why") or []:
        yield f"[dim]why:[/] {escape(text)}"
    for text in result.get("warnings") or []:
        yield f"[yellow]warning:[/] {escape(text)}"


def followed_text(advice: Mapping[str, Any]) -> str:
    """What advice had promised, and what came of it."""
    text = f"{advice['title']}: "
    if advice["predicted"] is not None:
        text += f"predicted {interval_text(advice['predicted'], '×')}, "
    if advice["measured"] is None:
        return f"{text}not measured"
    text += f"measured {interval_text(advice['measured'], '×')} against {advice['against']}"
    words = {True: "as predicted", False: "not as predicted"}
    return text if advice["as_predicted"] is None else f"{text}: {words[advice['as_predicted']]}"


def fidelity_text(fidelity: Mapping[str, Any]) -> str:
    """How far one output agrees with the original's."""
    parts = [
        ("cosine", fidelity.get("cosine"), ""),
        ("SQNR", fidelity.get("sqnr_db"), " dB"),
        ("largest difference", fidelity.get("max_abs"), ""),
        ("top-1 agreement", fidelity.get("top1_agreement"), ""),
    ]
    return ", ".join(f"{name} {value:.4g}{unit}" for name, value, unit in parts if value is not None) or "–"


def interval_text(value: Mapping[str, Any], unit: str = "") -> str:
    """A value with its 95% interval, where it has one."""
    text = f"{value['value']:.4g}{unit}"
    if value.get("low") is None or value.get("high") is None:
        return text
    return f"{text} ({value['low']:.4g} to {value['high']:.4g})"


def ms_text(value: float) -> str:
    """Milliseconds, with three significant digits."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def bytes_text(value: float) -> str:
    """Bytes in the largest unit that keeps a digit before the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return (
                f"{value:.0f} B"
                if unit == "B"
                else f"{value:.3g} {unit}"
                if value < 1000
                else f"{value:.0f} {unit}"
            )
        value /= 1024
    raise AssertionError("the last unit returns")


def _throughput(side: Side) -> str | None:
    value, concurrency = side.get("throughput_per_s"), side.get("concurrency", 1)
    if value is None:
        return None
    text = f"{value:.1f} /s" if value < 1000 else f"{value:.0f} /s"
    return text if concurrency == 1 else f"{text} ({concurrency} at once)"


def _maybe(text_of: Any, value: Any) -> str | None:
    return None if value is None else text_of(value)
