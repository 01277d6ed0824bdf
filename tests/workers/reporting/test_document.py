"""What goes into a report: distributions, structure, and what repeats the job."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.commands.parsing import parse_targets, read_recipe
from app.commands.submit import read_body
from app.jobs.schemas import read_request
from app.reports.schemas import Report
from tests.workers.reporting.samples import benchmarked, optimized, profiled, runs_ns
from workers.assignment import JobAssignment, SubjectFiles
from workers.reporting.distribution import PROBABILITIES, distribution, write_runs
from workers.reporting.document import document
from workers.reporting.repeat import command_of, request_of, target_text
from workers.reporting.surgery import surgery
from workers.reporting.write import write_report
from workers.steps import StepOutcome

RECIPE = {
    "schema": 1,
    "passes": [
        {"pass": "quantize-static", "params": {"excluded_nodes": ["a b", "c,d"]}, "inputs": {"calibration": "dat_1"}, "version": 3}
    ],
    "notes": [],
}  # fmt: skip


def assignment(**given: Any) -> JobAssignment:
    subject = SubjectFiles(
        id="mdl_1",
        digest="0" * 64,
        root=Path("/"),
        entry="m",
        format="onnx",
        name="net",
        facts={},
        signature={},
    )
    asked: dict[str, Any] = {
        "job_id": "job_1", "attempt": 1, "scratch": Path("/"), "subject": subject, "datasets": {}, "recipe": RECIPE,
        "target": {"runtime": "onnxruntime-cpu", "params": {"threads": 2}}, "evaluation": None, "budget": None,
        "options": {"seed": 0}, "measure_seconds": 1.0, "measure_launches": 5,
    }  # fmt: skip
    return JobAssignment(**{**asked, **given})


def test_a_distribution_is_of_every_run() -> None:
    runs = runs_ns(0.5, 30, 0)
    found = distribution("baseline", runs)
    flat = np.array(runs).reshape(-1) / 1e6
    assert found.runs == flat.size == sum(launch.runs for launch in found.launches)
    assert found.quantiles_ms == pytest.approx(np.quantile(flat, PROBABILITIES), rel=1e-4)
    assert (found.quantiles_ms[0], found.quantiles_ms[-1]) == pytest.approx(
        (flat.min(), flat.max()), rel=1e-4
    )
    last = np.array(runs[-1])
    assert found.launches[-1].quantiles_ms == pytest.approx(np.quantile(last / 1e6, PROBABILITIES), rel=1e-4)
    assert found.launches[-1].block_medians_ms == pytest.approx(np.median(last, axis=1) / 1e6, rel=1e-4)


def test_timed_runs_come_back_from_their_file(tmp_path: Path) -> None:
    given = {"baseline": [[[1, 2], [3]], [[4, 5]]], "optimized": [[[7]]]}
    with np.load(write_runs(tmp_path / "latency.npz", given)) as held:
        assert held["baseline_ns"].tolist() == [1, 2, 3, 4, 5]
        assert held["baseline_launch"].tolist() == [0, 0, 0, 1, 1]
        assert held["baseline_block"].tolist() == [0, 0, 1, 0, 0]
        assert held["optimized_ns"].tolist() == [7]


def test_what_repeats_a_job_says_what_the_job_said(tmp_path: Path) -> None:
    given = assignment(
        evaluation={"dataset": "dat_2", "metric": "top1", "output": "the logits"},
        budget={"max_drop": 0.01},
        options={"seed": 5, "no_cache": True, "allow_synthetic": False, "package": ["triton"]},
    )
    request = request_of(given)
    command = shlex.split(command_of(request))
    options = dict(zip(command, [*command[1:], ""], strict=True))
    assert command[:3] == ["burnish", "optimize", "mdl_1"]
    assert (options["--evaluate"], options["--metric"], options["--metric-output"]) == (
        "dat_2",
        "top1",
        "the logits",
    )
    assert (float(options["--max-drop"]), options["--seed"], options["--package"]) == (0.01, "5", "triton")
    assert "--no-cache" in command
    assert "--allow-synthetic" not in command
    assert parse_targets([options["--target"]]) == [given.target]
    report = optimized(recipe=given.recipe, request=request, target=given.target)
    paths = write_report(report, tmp_path)
    assert read_recipe(paths["report-json"][0]) == given.recipe
    sent = read_request(read_body(paths["report-json"][0])).model_dump(mode="json")
    assert sent["recipe"] == given.recipe
    assert sent["evaluation"] == given.evaluation
    assert sent["options"] | given.options == sent["options"]


@pytest.mark.parametrize(
    ("kind", "given", "command"),
    [
        ("optimize", {"inputs": {"calibration": "dat_1"}}, "burnish jobs submit report.json"),
        (
            "profile",
            {"asked": {"batch": 4, "seconds": 2.5, "traces": ["chrome"]}},
            "burnish jobs submit report.json",
        ),
        (
            "profile",
            {
                "asked": {"batch": 4, "seconds": 2.5, "traces": ["chrome"]},
                "recipe": {"schema": 1, "passes": []},
                "data": "dat_9",
            },
            "burnish profile mdl_1 --target onnxruntime-cpu:threads=2 --data dat_9 --batch 4 --seconds 2.5 --trace chrome",
        ),
    ],
    ids=["with data besides the recipe", "after passes", "as it is"],
)
def test_commands_that_can_say_it_all(kind: str, given: dict[str, Any], command: str) -> None:
    assert command_of(request_of(assignment(kind=kind, **given))) == command


@pytest.mark.parametrize(
    "target",
    [
        {"runtime": "tensorrt-rtx", "params": {"compute_capabilities": [86, 89]}},
        {"runtime": "openvino-cpu", "params": {"threads": 2, "hint": "throughput"}},
        {"runtime": "onnxruntime-cpu", "params": {}},
    ],
    ids=lambda target: target["runtime"],
)
def test_targets_as_the_command_line_reads_them(target: dict[str, Any]) -> None:
    (read,) = parse_targets([target_text(target)])
    assert {"params": {}, **read} == target


def outcome(details: dict[str, Any]) -> StepOutcome:
    facts = {"told": ["Done."], "details": details}
    return StepOutcome("pass:x", "k" * 64, Path("/"), "d", facts, False, 1.5)


def test_structure_in_the_words_of_every_pass() -> None:
    narrowed = {
        "units": {"removable": 2, "removed": 1}, "held_back": [{"place": "head", "why": "an output"}],
        "parameters": {"before": 10, "after": 5}, "flops": {"before": 20, "after": 8}, "size_bytes": {"before": 40, "after": 20},
        "layers": [{"name": "a", "kind": "Conv2d", "parameters": {"before": 10, "after": 5}, "flops": {"before": 20, "after": 8},
                    "channels": {"before": 4, "after": 2}}],
    }  # fmt: skip
    replaced = {
        "surgery": {
            "fitted_on": "data", "parameters": [10, 4], "flops": [30, 12],
            "layers": [{"name": "b", "kind": "Linear", "error": 0.02, "parameters": [10, 4], "flops": [30, 12]}],
            "left_out": [{"name": "c", "reason": "too small"}],
        }
    }  # fmt: skip
    zeros = {
        "pruned": {
            "weights": 8,
            "zeros": 4,
            "layers": [{"name": "d", "weights": 8, "zeros": 4}],
            "left_out": [],
        }
    }
    found = surgery([outcome(one) for one in (narrowed, replaced, zeros, {"nodes_before": 3})])
    assert [one.flops for one in found] == [(20, 8), (30, 12), None]
    assert [(one.layers[0].name, one.layers[0].channels, one.layers[0].error, one.layers[0].zeros) for one in found] == [
        ("a", (4, 2), None, None), ("b", None, 0.02, None), ("d", None, None, 4),
    ]  # fmt: skip
    assert [one.left_out for one in found] == [["head: an output"], ["c: too small"], []]


def test_a_document_is_plain_data_that_comes_back() -> None:
    report = document(
        assignment(), created_at=datetime(2026, 1, 2, tzinfo=UTC), datasets=[], result={"warnings": []},
        steps=[outcome({})], runs_ns={"baseline": runs_ns(1, 3, 0)}, machine={}, versions={"burnish": "0.1.0"},
        measurements=[{"side": "baseline", "name": "x", "unit": "1", "value": 1.0, "low": None, "high": None, "samples": {}, "machine": {}}],
    )  # fmt: skip
    for one in (report, optimized(), profiled(), benchmarked()):
        assert Report.model_validate_json(one.model_dump_json(by_alias=True)) == one
    assert report.steps[0].told == ["Done."]
    assert "machine" not in report.measurements[0]
    json.dumps(report.model_dump(mode="json", by_alias=True), allow_nan=False)
