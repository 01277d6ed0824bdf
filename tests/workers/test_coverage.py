"""Runtimes asked for a model's operators, each in a process of its own."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from app.catalog.runtimes import RUNTIMES
from workers import coverage as module
from workers.coverage import coverage
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx

NAMES = sorted(name for name, spec in RUNTIMES.items() if "onnx" in spec.formats)


def model(folder: Path, *nodes: tuple[str, str, str]) -> ModelHandle:
    """A chain of (operator, name, domain)."""
    values = ["x", *(name for _, name, _ in nodes[:-1]), "y"]
    made = [
        helper.make_node(operator, [values[number]], [values[number + 1]], name=name, domain=domain)
        for number, (operator, name, domain) in enumerate(nodes)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    domains = [
        helper.make_opsetid(domain, 1) for domain in sorted({domain for *_, domain in nodes if domain})
    ]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), *domains], ir_version=10)
    return save_onnx(proto, folder / "model")


def test_every_runtime_covers_what_is_plain(tmp_path: Path) -> None:
    found = coverage(model(tmp_path, ("Relu", "first", ""), ("Tanh", "last", "")), list(RUNTIMES), tmp_path)
    assert set(found) >= {"onnxruntime-cpu"}
    for name, told in found.items():
        assert (told["operators"], told["share"], told["unsupported"]) == (told["operators"], 1.0, []), name
        assert set(told["versions"]) == set(RUNTIMES[name].packages)


@pytest.mark.parametrize("name", NAMES)
def test_all_unknown_operators_are_named_at_once(name: str, tmp_path: Path) -> None:
    odd = model(
        tmp_path, ("Relu", "fine", ""), ("Odd", "one", "org.example"), ("Queer", "two", "org.example")
    )
    found = coverage(odd, [name], tmp_path)
    if name not in found:
        pytest.skip(f"{name} is not installed here")
    told = found[name]
    assert {entry["operator"] for entry in told["unsupported"]} == {"Odd", "Queer"}
    assert {entry["node"] for entry in told["unsupported"]} == {"one", "two"}
    assert (told["unsupported_count"], told["share"]) == (2, 0.3333)


def test_a_kernel_that_is_missing_for_a_type_is_named(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, 1, 4, 4]) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="double")
    weight = helper.make_tensor("w", TensorProto.DOUBLE, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    told = coverage(save_onnx(proto, tmp_path / "model"), list(RUNTIMES), tmp_path)["onnxruntime-cpu"]
    assert [entry["node"] for entry in told["unsupported"]] == ["double"]


def test_a_runtime_that_crashes_takes_nobody_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module.sys, "executable", str(_script(tmp_path, dying)))
    found = coverage(model(tmp_path, ("Relu", "only", "")), list(RUNTIMES), tmp_path)
    assert {told["problem"]["code"] for told in found.values()} == {"crashed"}
    assert "signal 11" in found["onnxruntime-cpu"]["problem"]["detail"]


def _script(folder: Path, text: str) -> Path:
    import sys

    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{text}\n")
    script.chmod(0o755)
    return script
