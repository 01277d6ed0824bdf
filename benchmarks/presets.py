"""The presets on real networks, each through a service of its own: a Markdown table on standard output."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from app.client import Client
from app.embedded import Embedded
from benchmarks.networks import NETWORKS, Network
from benchmarks.table import print_head

THREADS = 1
COLUMNS = ("network", "passes", "size, MiB", "p50, ms", "speed-up [95%]", "verdict", "SQNR, dB")


def main() -> int:
    """Optimize every network by the preset; 1 where a job did not succeed."""
    print_head(COLUMNS)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
        folder = Path(temporary)
        with Embedded(folder / "data") as service, Client(service.url, service.api_key) as client:
            for network in NETWORKS:
                job = optimize(client, network, folder)
                if job["status"] == "succeeded":
                    print(row(network, job), flush=True)
                else:
                    failed += 1
                    print(f"{network.name}: {job['problem']}", file=sys.stderr)
    return 1 if failed else 0


def optimize(client: Client, network: Network, folder: Path) -> dict[str, Any]:
    """The finished job of one network."""
    data = folder / "data.npz"
    np.savez(data, **network.data())  # type: ignore[arg-type]
    model = client.wait_model(client.upload_model(network.path())["id"])
    dataset = client.wait_dataset(client.upload_dataset(data)["id"])
    job = client.submit(
        {
            "kind": "optimize",
            "name": network.name,
            "subject": model["id"],
            "inputs": {"calibration": dataset["id"]},
            "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": THREADS}}],
        }
    )
    return client.wait(job["id"])


def row(network: Network, job: dict[str, Any]) -> str:
    """One row of the table."""
    before, after = job["result"]["baseline"], job["result"]["optimized"]
    speedup = job["result"]["comparison"]["speedup"]
    outputs = job["result"]["comparison"]["fidelity"]["outputs"]
    worst = min(
        (figures["sqnr_db"] for figures in outputs.values() if figures["sqnr_db"] is not None), default=None
    )
    cells = (
        network.name,
        ", ".join(step["pass"] for step in job["recipe"]["passes"]) or "none",
        f"{before['size_bytes'] / 2**20:.2f} → {after['size_bytes'] / 2**20:.2f}",
        f"{before['latency']['p50_ms']:.3g} → {after['latency']['p50_ms']:.3g}",
        f"{speedup['value']:.2f} [{speedup['low']:.2f}, {speedup['high']:.2f}]",
        speedup["verdict"].replace("_", " "),
        "–" if worst is None else f"{worst:.0f}",
    )
    return "| " + " | ".join(cells) + " |"
