"""A job's report by the command, and the job done again from it: real work, a real service."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.embedded import Embedded
from app.reports.schemas import Report
from demo import digits
from tests.e2e.service import Service, burnish


@pytest.fixture(scope="module")
def job(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network that was pruned and quantized, evaluated on data."""
    folder = tmp_path_factory.mktemp("report")
    split = digits.load()
    digits.export(digits.train(split, epochs=2), folder / "digits.onnx")
    calibration, evaluation = digits.write_data(split, folder)
    done = burnish(
        embedded, "optimize", str(folder / "digits.onnx"), "--target", "onnxruntime-cpu:threads=1",
        "--pass", "prune-channels:importance=magnitude-l2,ratio=0.25", "--pass", "quantize-static:method=percentile",
        "--dataset", str(calibration), "--evaluate", str(evaluation), "--max-drop", "0.9", "--seed", "3", "--json",
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def told(embedded: Embedded, job: dict[str, Any]) -> Report:
    return Report.model_validate_json(burnish(embedded, "report", job["id"], "--format", "json").stdout)


def test_a_report_says_what_the_job_did(told: Report, job: dict[str, Any]) -> None:
    assert (told.job, told.kind, told.subject["id"]) == (job["id"], "optimize", job["subject"])
    result = {key: value for key, value in job["result"].items() if key != "artifacts"}
    assert told.result == result
    assert {"report", "report-markdown", "report-json", "report-samples"} <= set(job["result"]["artifacts"])
    for one in told.distributions:
        latency = job["result"][one.side]["latency"]
        assert (one.runs, len(one.launches)) == (latency["samples"], latency["launches"])
        assert one.quantiles_ms[one.probabilities.index(0.5)] == pytest.approx(latency["p50_ms"], rel=1e-3)
    assert [one.side for one in told.distributions] == ["baseline", "optimized"]
    (surgery,) = told.surgery
    assert surgery.flops is not None
    assert surgery.flops[0] > surgery.flops[1]
    assert len(surgery.layers) >= 5
    assert {row["name"] for row in told.measurements} >= {
        "latency_p50",
        "throughput",
        "load",
        "peak_memory",
        "accuracy",
        "speedup",
    }
    assert told.request["options"]["seed"] == 3


def test_forms_of_a_report(embedded: Embedded, job: dict[str, Any], service: Service, tmp_path: Path) -> None:
    markdown = burnish(embedded, "report", job["id"]).stdout
    assert markdown.startswith("# digits.onnx, optimized for onnxruntime-cpu")
    assert "| latency p50 |" in markdown
    for name, start in (("a.html", "<!doctype html>"), ("a.md", "# digits"), ("a.json", "{")):
        said = burnish(embedded, "report", job["id"], "-o", str(tmp_path / name)).stdout
        assert said.strip() == str(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    asked = burnish(embedded, "report", job["id"], "-o", str(tmp_path), "--json").stdout
    assert json.loads(asked)["path"] == str(tmp_path / "report.html")
    assert (
        Report.model_validate_json(burnish(embedded, "report", job["id"], "--json").stdout).job == job["id"]
    )
    runs = service.client.download(job["result"]["artifacts"]["report-samples"], tmp_path / "latency.npz")
    with np.load(runs) as held:
        assert np.median(held["optimized_ns"]) / 1e6 == pytest.approx(
            job["result"]["optimized"]["latency"]["p50_ms"]
        )
    opened = tmp_path / "opened"
    browser = {
        "BROWSER": f"{sys.executable} -c \"import sys; open(r'{opened}', 'w').write(sys.argv[1])\" %s &"
    }
    burnish(embedded, "report", job["id"], "--open", "-o", str(tmp_path / "shown.html"), **browser)
    assert (tmp_path / "shown.html").exists()


def test_a_job_without_a_report_says_so(embedded: Embedded, service: Service, job: dict[str, Any]) -> None:
    targets = [{"runtime": "onnxruntime-cpu", "params": {"threads": threads}} for threads in (1, 2)]
    body = {"kind": "optimize", "subject": job["subject"], "targets": targets}
    parent = service.client.submit({**body, "recipe": {"schema": 1, "passes": []}})
    done = burnish(embedded, "report", parent["id"], check=1)
    assert "a report for each target" in done.stderr
    assert parent["children"][0] in done.stderr
    early = burnish(embedded, "report", parent["children"][1], check=1)
    assert "has no report" in early.stderr
    service.client.cancel(parent["id"])
    service.client.wait(parent["id"])


@pytest.mark.slow
def test_a_job_is_done_again_by_its_report(
    embedded: Embedded, job: dict[str, Any], told: Report, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    burnish(embedded, "report", job["id"], "--format", "json", "-o", str(path))
    command = [str(path) if word == "report.json" else word for word in shlex.split(told.command)]
    assert command[:2] == ["burnish", "optimize"]
    again = json.loads(burnish(embedded, *command[1:], "--json").stdout)
    sent = json.loads(burnish(embedded, "jobs", "submit", str(path), "--detach", "--json").stdout)
    burnish(embedded, "jobs", "cancel", sent["id"])
    for one in (again, sent):
        for field in ("kind", "subject", "recipe", "targets", "evaluation", "budget", "options"):
            assert one[field] == job[field], field
    assert again["status"] == "succeeded", again["problem"]
    stored, repeated = ([step for step in one["steps"] if step["key"]] for one in (job, again))
    assert [step["key"] for step in repeated] == [step["key"] for step in stored]
    assert all(step["cached"] for step in repeated)


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_exports_need_a_place(embedded: Embedded, job: dict[str, Any], tracker: str) -> None:
    done = burnish(embedded, "report", job["id"], "--export", tracker, check=2, MLFLOW_TRACKING_URI="")
    assert "needs -o DIR" in done.stderr
