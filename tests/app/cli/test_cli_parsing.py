"""Passes, targets and recipes as the command line writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.catalog.routes import list_passes
from app.commands.common import USAGE, Failure
from app.commands.parsing import bind_data, parse_pass, parse_targets, read_recipe

ANYONE: Any = None  # the catalog is the same for all


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("simplify", {"pass": "simplify"}),
        ("quantize-static:method=entropy", {"pass": "quantize-static", "params": {"method": "entropy"}}),
        (
            "q:samples=64,percentile=99.9,per_channel=true,operators=null",
            {
                "pass": "q",
                "params": {"samples": 64, "percentile": 99.9, "per_channel": True, "operators": None},
            },
        ),
        (
            "q:excluded_nodes=[a,b/c:0],method=minmax",
            {"pass": "q", "params": {"excluded_nodes": ["a", "b/c:0"], "method": "minmax"}},
        ),
        (
            'q:names=["a,b",c],more={"x": [1, 2]},empty=[]',
            {"pass": "q", "params": {"names": ["a,b", "c"], "more": {"x": [1, 2]}, "empty": []}},
        ),
        ("q:name=a=b", {"pass": "q", "params": {"name": "a=b"}}),
        (
            "q:epochs=3,distributed.processes=2,distributed.strategy=ddp",
            {"pass": "q", "params": {"epochs": 3, "distributed": {"processes": 2, "strategy": "ddp"}}},
        ),
    ],
)
def test_pass(text: str, step: dict[str, object]) -> None:
    assert parse_pass(text) == step


@pytest.mark.parametrize(
    "text", ["", ":a=1", "q:a", "q:=1", "q:a=1,a=2", "q:a.b=1,a.b=2", "q:a=1,a.b=2", "q:a.b=1,a=2"]
)
def test_pass_refused(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_pass(text)
    assert caught.value.status == USAGE


@pytest.mark.parametrize(
    ("texts", "targets"),
    [
        (["onnxruntime-cpu"], [{"runtime": "onnxruntime-cpu"}]),
        (["a,b", "c"], [{"runtime": "a"}, {"runtime": "b"}, {"runtime": "c"}]),
        (
            ["a:threads=2,spin=false,b:x=[1,2]"],
            [
                {"runtime": "a", "params": {"threads": 2, "spin": False}},
                {"runtime": "b", "params": {"x": [1, 2]}},
            ],
        ),
    ],
)
def test_targets(texts: list[str], targets: list[dict[str, object]]) -> None:
    assert parse_targets(texts) == targets


def test_target_without_runtime_is_refused() -> None:
    with pytest.raises(Failure, match="no runtime"):
        parse_targets(["threads=2"])


def test_calibration_goes_to_the_passes_that_take_it() -> None:
    catalog = [{"name": "simplify", "inputs": {}}, {"name": "static", "inputs": {"calibration": "required"}}]
    passes = [
        {"pass": "simplify"},
        {"pass": "static", "params": {"a": 1}},
        {"pass": "static", "inputs": {"calibration": "dat_own"}},
    ]
    bound, used = bind_data(passes, catalog, "calibration", "dat_given")
    assert used
    assert bound == [
        {"pass": "simplify"},
        {"pass": "static", "params": {"a": 1}, "inputs": {"calibration": "dat_given"}},
        {"pass": "static", "inputs": {"calibration": "dat_own"}},
    ]
    assert bind_data(passes[:1], catalog, "calibration", "dat_given") == (passes[:1], False)


@pytest.mark.parametrize(
    ("name", "params", "role", "read"),
    [
        ("prune-channels", {}, "train", True),
        ("prune-channels", {"importance": "taylor"}, "train", True),
        ("prune-channels", {}, "validation", False),
        ("quantize-openvino", {}, "validation", False),
        ("quantize-openvino", {"max_drop": 0.01}, "validation", True),
        ("finetune", {}, "train", True),
        ("finetune", {}, "calibration", False),
    ],
)
def test_data_go_to_passes_that_read_them_with_these_parameters(
    name: str, params: dict[str, object], role: str, read: bool
) -> None:
    catalog = [one.model_dump(mode="json") for one in list_passes(ANYONE).items]
    bound, used = bind_data([{"pass": name, "params": params}], catalog, role, "dat_given")
    assert used is read
    assert bound[0].get("inputs", {}) == ({role: "dat_given"} if read else {})


def test_recipe_alone_and_inside_a_manifest(tmp_path: Path) -> None:
    recipe = {"schema": 1, "passes": [{"pass": "simplify"}]}
    alone, inside = tmp_path / "recipe.json", tmp_path / "manifest.json"
    alone.write_text(json.dumps(recipe))
    inside.write_text(json.dumps({"recipe": recipe, "job": "job_1"}))
    assert read_recipe(alone) == read_recipe(inside) == recipe


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"passes": "simplify"}'])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        read_recipe(path)
    assert caught.value.status == USAGE


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        (
            "tensorrt-rtx:sm89",
            [{"runtime": "tensorrt-rtx", "params": {"compute_capabilities": [89]}}],
        ),
        (
            "tensorrt-rtx:sm86+sm120:tf32=true,refit=false,onnxruntime-cpu",
            [
                {
                    "runtime": "tensorrt-rtx",
                    "params": {"compute_capabilities": [86, 120], "tf32": True, "refit": False},
                },
                {"runtime": "onnxruntime-cpu"},
            ],
        ),
        (
            "tensorrt-rtx:sm89,max_batch=8",
            [{"runtime": "tensorrt-rtx", "params": {"compute_capabilities": [89], "max_batch": 8}}],
        ),
    ],
)
def test_target_for_gpus(text: str, targets: list[dict[str, object]]) -> None:
    assert parse_targets([text]) == targets
