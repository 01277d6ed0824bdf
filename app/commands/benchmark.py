"""`burnish benchmark`: how a model or an engine serves, in scenarios, over batches, threads and streams."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.commands.common import (
    DONE,
    FAILED,
    JsonOption,
    UrlOption,
    connect,
    leave,
    print_json,
    print_problem,
    stdout,
)
from app.commands.profile import (
    DataOption,
    OutOption,
    PassesOption,
    SubjectArgument,
    TargetsOption,
    fetch_all,
    finished,
    looking_body,
)
from app.commands.tables import bytes_text, interval_text, ms_text

Json = Mapping[str, Any]


def benchmark(
    subject: SubjectArgument,
    target: TargetsOption = [],  # noqa: B006 - typer reads the default
    passes: PassesOption = [],  # noqa: B006
    data: DataOption = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Calibration data, for passes that calibrate.")
    ] = None,
    scenario: Annotated[
        list[str],
        typer.Option(help="single-stream, multi-stream, offline or server (MLPerf's); repeat."),
    ] = ["single-stream"],  # noqa: B006
    batch: Annotated[list[int], typer.Option(help="Samples of one inference; repeat for a curve.")] = [1],  # noqa: B006
    threads: Annotated[list[int], typer.Option(help="Threads to try; repeat. None: the target's.")] = [],  # noqa: B006
    streams: Annotated[
        list[int], typer.Option(help="Engines side by side, of multi-stream a query's samples; repeat.")
    ] = [1],  # noqa: B006
    p99_ms: Annotated[
        float | None, typer.Option("--p99-ms", min=0, help="The bound that scenario server keeps.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each point is measured.")] = 5.0,
    energy: Annotated[bool, typer.Option("--energy", help="Energy for each sample too.")] = False,
    out: OutOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how an engine serves: latency, throughput, the highest rate within a bound, cold start.

    Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 the service cannot be reached.
    """
    with connect(url) as client:
        body = looking_body(client, "benchmark", subject, target, passes, data, {"calibration": dataset})
        body["benchmark"] = {
            "scenarios": scenario,
            "batch": batch,
            "threads": threads,
            "streams": streams,
            "p99_ms": p99_ms,
            "seconds": seconds,
            "energy": energy,
        }
        jobs, job = finished(client, body)
        if not as_json:
            for each in jobs:
                if each["result"]:
                    print_benchmark(stdout(), each)
                if each["problem"]:
                    print_problem(each["problem"])
        if out is not None:
            fetch_all(client, jobs, out)
    if as_json:
        print_json(job if not job["children"] else {**job, "children": jobs})
    leave(DONE if job["status"] == "succeeded" else FAILED)


def print_benchmark(console: Console, job: Json) -> None:
    """The table of a `benchmark` job's result, and the lines below it."""
    found = job["result"]["benchmark"]
    console.print(points_table(found, f"{job['name'] or job['id']} on {found['target']['runtime']}"))
    for line in benchmark_lines(found):
        console.print(line, soft_wrap=True)
    for text in (*found["notes"], *job["result"]["warnings"]):
        console.print(f"[yellow]note[/]       {escape(text)}", soft_wrap=True)


def points_table(found: Json, title: str) -> Table:
    """A row a point."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for column in ("scenario", "batch", "threads", "streams", "p50", "p90", "p99", "samples/s", "memory", ""):
        table.add_column(column, justify="left" if column in ("scenario", "") else "right")
    for point in found["points"]:
        latency = point["latency"] or {}
        percentiles = [latency.get(f"{name}_ms") for name in ("p50", "p90", "p99")]
        status = "" if point["status"] == "measured" else point["status"]
        if point["problem"]:
            status = f"{status}: {point['problem']['detail']}"
        cells = (
            point["scenario"],
            *(str(point[name]) for name in ("batch", "threads", "streams")),
            *("–" if value is None else ms_text(value) for value in percentiles),
            interval_text(point["throughput"]) if point["throughput"] else "–",
            bytes_text(point["peak_memory_bytes"]) if point["peak_memory_bytes"] is not None else "–",
            status,
        )
        table.add_row(*map(escape, cells))
    return table


def benchmark_lines(found: Json) -> Iterator[str]:
    """The knee of each batch curve, energy, and the cold start."""
    for knee in found["knees"]:
        yield (
            f"[bold]knee[/]       batch {knee['batch']} gives {knee['throughput_per_s']:.4g} /s with {knee['threads']} threads and "
            f"{knee['streams']} streams; the best is batch {knee['best_batch']} with {knee['best_throughput_per_s']:.4g} /s"
        )
    for point in found["points"]:
        if point["energy"]:
            yield (
                f"[bold]energy[/]     {point['scenario']}, batch {point['batch']}: {point['energy']['joules_per_sample']:.3g} J a "
                f"sample ({point['energy']['source']})"
            )
    start = found["cold_start"]
    yield (
        f"[bold]cold start[/] imports {ms_text(start['import_ms'])}, loading {ms_text(start['load_ms'])}, "
        f"first answer {ms_text(start['first_ms'])}"
    )
