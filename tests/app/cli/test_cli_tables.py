"""A result as people read it, from one that a real job gave."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.commands.catalog import machine
from app.commands.common import print_problem
from app.commands.tables import bytes_text, ms_text, named_by_target, print_result, targets_table


@pytest.fixture
def result() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("result.json").read_text())


def text_of(result: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_result(Console(file=stream, width=200, highlight=False), result, "digits on onnxruntime-cpu")
    return stream.getvalue()


def row_of(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"│ {label} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_number_is_shown(result: dict[str, Any]) -> None:
    text = text_of(result)
    before, after = result["baseline"], result["optimized"]
    assert row_of(text, "size") == ["size", bytes_text(before["size_bytes"]), bytes_text(after["size_bytes"])]
    for name in ("p50", "p90"):
        times = [ms_text(side["latency"][f"{name}_ms"]) for side in (before, after)]
        assert row_of(text, f"latency {name}") == [f"latency {name}", *times]
    assert row_of(text, "throughput")[1].endswith("/s")
    after["concurrency"] = 2
    assert row_of(text_of(result), "throughput")[2].endswith("/s (2 at once)")
    assert row_of(text, "peak memory")
    assert f"{after['accuracy']['value']:.4g} (" in row_of(text, "top1")[2]
    speedup = result["comparison"]["speedup"]
    assert (
        f"{speedup['value']:.4g}× ({speedup['low']:.4g} to {speedup['high']:.4g}) {speedup['verdict']}"
        in text
    )
    assert "fidelity    logits: cosine" in text
    assert "in budget   yes" in text
    for sentence in result["comparison"]["why"]:
        assert f"why: {sentence}" in text


def test_what_was_not_measured_is_left_out(result: dict[str, Any]) -> None:
    for side in (result["baseline"], result["optimized"]):
        side["accuracy"] = None
        side["latency"]["p99_ms"] = None
    result["comparison"] |= {"accuracy_drop": None, "within_budget": None}
    text = text_of(result)
    for absent in ("p99", "top1", "accuracy", "drop", "budget"):
        assert absent not in text


def test_one_missing_side_shows_as_a_dash(result: dict[str, Any]) -> None:
    result["baseline"]["latency"]["p99_ms"] = None
    result["optimized"]["latency"]["p99_ms"] = 1.0
    assert row_of(text_of(result), "latency p99") == ["latency p99", "–", "1 ms"]


def test_reference_stands_beside(result: dict[str, Any]) -> None:
    result["reference"] = result["baseline"]
    assert len(row_of(text_of(result), "size")) == 4


@pytest.mark.parametrize(
    ("verdict", "budget", "words"),
    [
        ("slower", False, ["slower", "in budget   no"]),
        ("no_difference", "undecided", ["no difference", "undecided"]),
        ("unstable", None, ["unstable"]),
    ],
)
def test_verdicts(result: dict[str, Any], verdict: str, budget: object, words: list[str]) -> None:
    result["comparison"]["speedup"]["verdict"] = verdict
    result["comparison"]["within_budget"] = budget
    text = text_of(result)
    assert all(word in text for word in words)


def test_names_from_a_model_are_no_markup(result: dict[str, Any]) -> None:
    outputs = result["comparison"]["fidelity"]["outputs"]
    outputs["[bold]x[/bold]"] = outputs["logits"]
    result["warnings"] = ["[red]beware[/red]"]
    text = text_of(result)
    assert "[bold]x[/bold]: cosine" in text
    assert "warning: [red]beware[/red]" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1023 * 1024, "1023 KiB"), (1536 * 1024, "1.5 MiB"),
     (5 * 2**40, "5120 GiB")],
)  # fmt: skip
def test_bytes(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_several_targets_are_one_table(result: dict[str, Any]) -> None:
    def job(runtime: str, **fields: Any) -> dict[str, Any]:
        return {
            "targets": [{"runtime": runtime}],
            "status": "succeeded",
            "result": result,
            "problem": None,
            **fields,
        }

    refused = job("openvino-cpu", status="failed", result=None, problem={"code": "unsupported_operator"})
    jobs = [job("onnxruntime-cpu"), refused, job("onnxruntime-cpu")]
    assert [name for name, _ in named_by_target(jobs)] == [
        "onnxruntime-cpu",
        "openvino-cpu",
        "onnxruntime-cpu-2",
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(targets_table(jobs))
    lines = console.export_text().splitlines()
    (failed,) = [line for line in lines if "openvino-cpu" in line]
    assert "failed: unsupported_operator" in failed
    assert failed.count("–") == 5
    (second,) = [line for line in lines if "onnxruntime-cpu-2" in line]
    assert "succeeded" in second
    assert "×" in second


def problem_text(problem: dict[str, Any]) -> str:
    out = io.StringIO()
    print_problem(problem, Console(file=out, width=200))
    return out.getvalue()


def test_weights_that_do_not_fit_are_named() -> None:
    """Each with what is wrong with it; the detail counts them alone."""
    text = problem_text(
        {
            "title": "The model is not valid",
            "detail": "the weights are not those of resnet10: 1 missing, 1 of another shape",
            "errors": [
                {"path": "conv.weight", "message": "missing"},
                {"path": "fc.bias", "message": "is [7], must be [10]"},
            ],
        }
    )
    assert "also conv.weight: missing\n" in text
    assert "also fc.bias: is [7], must be [10]\n" in text


def test_nodes_are_named_with_their_operator() -> None:
    """The first stands in the problem itself."""
    reason = "the type complex64"
    text = problem_text(
        {
            "title": "An operator is not supported",
            "detail": f"openvino-cpu cannot run 2 of the model's 9 nodes; the first: {reason}",
            "node": "first",
            "errors": [
                {"node": "first", "operator": "STFT", "detail": reason},
                {"node": "second", "operator": "DFT", "detail": reason},
            ],
        }
    )
    assert text.count("also") == 1
    assert f"also second (DFT): {reason}\n" in text


def test_what_the_detail_tells_is_not_told_again() -> None:
    """Fields of a request, and the problem that a refusal quotes."""
    first = {"path": "targets[0].params.threads", "message": "must be above 0"}
    second = {"path": "name", "message": "is too long"}
    fields = {"detail": f"{first['path']}: {first['message']}, and 1 more", "errors": [first, second]}
    assert problem_text(fields).count("also") == 1
    quoted = {"code": "invalid_model", "param": "signature", "detail": "it has no output"}
    rejected = {"detail": "the model mdl_1 was rejected: it has no output", "errors": [quoted]}
    assert "also" not in problem_text(rejected)


def test_a_workers_machine_in_a_line() -> None:
    gpu = {"name": "NVIDIA L40S", "compute_capability": "8.9"}
    told = {"cores": 8, "cpu": "EPYC", "memory_bytes": 64 * 2**30, "gpus": [gpu, gpu]}
    assert machine(told) == "8 × EPYC, 64 GiB, NVIDIA L40S (8.9), NVIDIA L40S (8.9)"
    assert machine({}) == ""
