"""The main job on real input: train, export, serve, optimize over HTTP, download, run without Burnish."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from app.client import ApiProblem, Client, Unreachable
from app.commands import bundles
from app.commands.common import Failure, print_problem
from app.commands.optimize import fetch_engine
from app.commands.progress import job_bar
from app.commands.tables import print_result
from app.embedded import Embedded, EmbeddedError

OUT = Path("demo-output")
MAX_DROP = 0.02
THREADS = 1

console = Console(highlight=False)


def main() -> int:
    """The demo; 0 where everything went as it should."""
    try:
        bundles.check_destination(OUT, force=False)
        with tempfile.TemporaryDirectory(prefix="burnish-demo-") as temporary:
            folder = Path(temporary)
            model, calibration, evaluation = prepare(folder)
            say("starting the embedded service")
            with Embedded(folder / "data", say=console.print) as service:
                say(f"it serves at {service.url}")
                with Client(service.url, service.api_key) as client:
                    optimize(client, model, calibration, evaluation)
        say("the service is stopped")
        return run_bundle()
    except (ApiProblem, Failure, Unreachable, EmbeddedError) as error:
        print_problem(
            error.problem
            if isinstance(error, ApiProblem)
            else {"title": "The demo failed", "detail": str(error)}
        )
        return 1


def prepare(folder: Path) -> tuple[Path, Path, Path]:
    """Train and export; the paths of model, calibration and evaluation data."""
    from demo import digits  # late: torch takes seconds to load

    split = digits.load()
    began = time.monotonic()
    net = digits.train(split)
    seconds = time.monotonic() - began
    say(
        f"trained on {len(split.train)} handwritten digits in {seconds:.0f} s: "
        f"{digits.accuracy(net, split):.1%} of {len(split.evaluation)} others right"
    )
    path = folder / "digits.onnx"
    written = digits.export(net, path)
    opset = next(entry.version for entry in written.opset_import if entry.domain == "")
    say(
        f"exported to ONNX, opset {opset}, {len(written.graph.node)} nodes, {path.stat().st_size / 2**20:.2f} MiB"
    )
    return path, *digits.write_data(split, folder)


def optimize(client: Client, model: Path, calibration: Path, evaluation: Path) -> None:
    """Upload, quantize, show the table, download the engine.

    Raises:
        Failure: the job did not succeed.
    """
    ids = {
        "model": client.wait_model(client.upload_model(model, name="digits")["id"])["id"],
        "calibration": client.wait_dataset(client.upload_dataset(calibration)["id"])["id"],
        "evaluation": client.wait_dataset(client.upload_dataset(evaluation)["id"])["id"],
    }
    say("uploaded model, calibration and evaluation data; quantizing to INT8")
    job = client.submit(job_body(ids))
    with job_bar(console) as show:
        job = client.wait(job["id"], show)
    if job["result"] is not None:
        console.print()
        print_result(console, job["result"], "digits on onnxruntime-cpu")
        console.print()
    if job["status"] != "succeeded":
        print_problem(job["problem"] or {})
        console.print(client.logs(job["id"])[-2000:], markup=False)
        raise Failure(f"the job {job['id']} is {job['status']}")
    fetch_engine(client, job["result"]["artifacts"]["engine"], OUT)
    say(f"downloaded the engine to {OUT}/")


def job_body(ids: dict[str, str]) -> dict[str, Any]:
    """The request, as any client would send it."""
    return {
        "kind": "optimize",
        "name": "digits",
        "subject": ids["model"],
        "recipe": {
            "schema": 1,
            "passes": [
                {"pass": "simplify"},
                {"pass": "quantize-static", "inputs": {"calibration": ids["calibration"]}},
            ],
        },
        "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": THREADS}}],
        "evaluation": {"dataset": ids["evaluation"], "metric": "top1"},
        "budget": {"max_drop": MAX_DROP},
    }


def run_bundle() -> int:
    """Run the engine in a process of its own that knows nothing of us; its exit status."""
    clean = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-I", str((OUT / "run.py").resolve()), "--json"],
        cwd="/",
        env=clean,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        console.print(f"run.py ended with status {done.returncode} and said nothing", style="red")
        return 1
    for entry in said["outputs"]:
        say(f"python {OUT}/run.py: {entry['output']} {'as promised' if entry['ok'] else 'NOT as promised'}")
    if "error" in said:
        console.print(said["error"], style="red", markup=False)
    return done.returncode


def say(text: str) -> None:
    """One line of the story."""
    console.print(f"[bold]demo[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
