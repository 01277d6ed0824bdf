"""A job's wall time over the same library calls made directly in one script, in turns, and where the rest goes."""

import json
import sqlite3
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.client import Client
from app.embedded import Embedded
from benchmarks.direct import Done
from benchmarks.networks import lines, packaged
from workers.measure.feeds_file import MOST_FEEDS

NETWORK = packaged("rapidocr", "models/PP-OCRv6_rec_small.onnx")
SAMPLES = 1000  # so many to calibrate with and to compare on are about a minute of work
ROUNDS = 3
MOST_TIMES, MOST_SECONDS = 1.15, 3.0  # a job may take so many times the script, and so many seconds more
TARGET = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}
STAGES = ("pass:simplify", "pass:quantize-static", "build:baseline", "build", "measuring", "packaging")


def main() -> int:
    """Print the ratio and the table of the difference; 1 where a job did not succeed or takes too long."""
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
        folder = Path(temporary)
        data = folder / "data.npz"
        np.savez(data, **lines(SAMPLES))  # type: ignore[arg-type]
        rounds = []
        with Embedded(folder / "data") as service, Client(service.url, service.api_key) as client:
            model = client.wait_model(client.upload_model(NETWORK)["id"])["id"]
            dataset = client.wait_dataset(client.upload_dataset(data)["id"])["id"]
            for number in range(ROUNDS):
                job = run_job(client, model, dataset, number)
                if job["status"] != "succeeded":
                    print(job["problem"], file=sys.stderr)
                    return 1
                spent = sections(folder / "data" / "burnish.db", job)
                rounds.append((spent, run_directly(data, job, folder)))
    beyond = [job["all"] - MOST_TIMES * script["all"] for job, script in rounds]
    print_tables(rounds, beyond)
    if median(beyond) > MOST_SECONDS:
        print(f"a job takes more than {MOST_TIMES} times the script and {MOST_SECONDS:g} s", file=sys.stderr)
        return 1
    return 0


def run_job(client: Client, model: str, dataset: str, seed: int) -> dict[str, Any]:
    """One job whose every step runs, finished."""
    passes = [
        {"pass": "simplify"},
        {"pass": "quantize-static", "inputs": {"calibration": dataset}},
    ]
    job = client.submit(
        {
            "kind": "optimize",
            "subject": model,
            "recipe": {"schema": 1, "passes": passes},
            "targets": [TARGET],
            "evaluation": {"dataset": dataset, "metric": "snr"},
            "options": {"no_cache": True, "seed": seed},
        }
    )
    return client.wait(job["id"])


def run_directly(data: Path, job: dict[str, Any], folder: Path) -> dict[str, float]:
    """The script's seconds by section, `all` of them from its first line on, `process` from outside."""
    timed = {side: job["result"][side]["latency"] for side in ("baseline", "optimized")}
    did = Done(
        launches=timed["baseline"]["launches"],
        feeds=MOST_FEEDS,
        baseline=timed["baseline"]["samples"],
        optimized=timed["optimized"]["samples"],
    )
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.direct",
            str(NETWORK),
            str(data),
            json.dumps(did),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def sections(database: Path, job: dict[str, Any]) -> dict[str, float]:
    """Where a job's wall time went, from the times of its events, by the database's clock."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT type, data, created_at FROM events WHERE subject_id = ? ORDER BY seq", (job["id"],)
        ).fetchall()
    connection.close()
    events = [(kind, json.loads(text), datetime.fromisoformat(at).timestamp()) for kind, text, at in rows]
    statuses = {said["status"]: at for kind, said, at in events if kind == "status"}
    begun = {said["name"]: at for kind, said, at in events if kind == "step" and said["status"] == "running"}
    ended = {said["name"]: at for kind, said, at in events if kind == "step" and said["status"] == "done"}
    spent = {
        "queue": statuses["running"] - statuses["queued"],
        "imports": begun[STAGES[0]] - statuses["running"],
        "finish": statuses["succeeded"] - ended[STAGES[-1]],
        "all": statuses["succeeded"] - statuses["queued"],
    }
    return spent | {stage: ended[stage] - begun[stage] for stage in STAGES}


def print_tables(rounds: list[tuple[dict[str, float], dict[str, float]]], beyond: list[float]) -> None:
    """Each round and the medians; `beyond` are the seconds of each round past `MOST_TIMES` the script."""
    ratios = [job["all"] / script["all"] for job, script in rounds]
    print(f"| | job, s | script, s | job / script | job - {MOST_TIMES} × script, s |")
    print("| --- | --- | --- | --- | --- |")
    for number, (job, script) in enumerate(rounds, 1):
        print(
            f"| round {number} | {job['all']:.1f} | {script['all']:.1f} | {ratios[number - 1]:.3f} | {beyond[number - 1]:+.1f} |"
        )
    print(f"| median | | | {median(ratios):.3f} | {median(beyond):+.1f} |")
    print("\n| where it goes | job, s | script, s | difference, s |")
    print("| --- | --- | --- | --- |")
    names = {
        "queue": "in the queue: message, claim",
        "imports": "files laid out, child started, libraries imported",
        **dict(zip(STAGES, STAGES, strict=True)),
        "finish": "artifacts stored, result written",
    }
    for key, name in names.items():
        in_job = median(job[key] for job, _ in rounds)
        in_script = median(script.get(key, 0.0) for _, script in rounds)
        print(f"| {name} | {in_job:.2f} | {in_script:.2f} | {in_job - in_script:+.2f} |")
