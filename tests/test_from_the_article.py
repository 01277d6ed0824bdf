"""`docs/from-the-article.md`: its code runs, its commands are the catalog's."""

import ast
import re
import shlex
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.commands.parsing import parse_pass, parse_targets

PAGE = Path(__file__).parents[1] / "docs" / "from-the-article.md"
BLOCK = re.compile(r"(<!-- compiled only: .*? -->\n)?```(\w*)\n(.*?)^```", re.M | re.S)
PARTS = (
    *("Depthwise-separable convolution", "Channel pruning", "Device placement", "Half precision"),
    *("DataLoader workers", "Data in memory", "Several processes", "Several machines", "Distillation"),
    *("Quantization", "Profiler", "TensorRT", "Keras", "ONNX"),
)


def blocks(language: str) -> list[tuple[bool, str]]:
    """(whether it is run, its text)."""
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return [(not only, text) for only, kind, text in found if kind == language]


def commands() -> list[list[str]]:
    lines = [line for _, text in blocks("") for line in text.splitlines() if line]
    return [shlex.split(line) for line in lines]


def test_every_part_of_the_practice_is_there() -> None:
    assert re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.M) == list(PARTS)


def test_the_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "article"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, of exporting and quantizing
        for run, text in blocks("python"):
            code = compile(text, str(PAGE), "exec")
            if run and not text.startswith("# train_ddp.py"):
                exec(code, names)


def test_two_processes_train(tmp_path: Path) -> None:
    (script,) = [text for _, text in blocks("python") if text.startswith("# train_ddp.py")]
    (tmp_path / "train_ddp.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "train_ddp.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "trained.pt").stat().st_size > 1000


def test_nothing_old_is_in_the_code() -> None:
    text = "\n".join(text for _, text in blocks("python"))
    for old in (
        "cuda.amp",
        "DataParallel(network)",
        "quint8",
        "EXPLICIT_BATCH",
        "BuilderFlag",
        "dynamic_axes",
    ):
        assert old not in text.replace("DistributedDataParallel", ""), old
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.With) and "autocast" in ast.unparse(node.items[0]):
            assert "backward" not in ast.unparse(node)


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:60])
def test_commands_are_the_catalogs(command: list[str]) -> None:
    assert command[:2] == ["burnish", "optimize"]
    given = list(pairwise(command))
    read = set()
    for option, value in given:
        if option == "--pass":
            step = parse_pass(value)
            spec = PASSES[step["pass"]]
            spec.params.model_validate(step.get("params", {}))
            read |= set(spec.inputs)
        if option == "--target":
            for target in parse_targets([value]):
                RUNTIMES[target["runtime"]].params.model_validate(target.get("params", {}))
    for option, role in (("--train", "train"), ("--validation", "validation"), ("--teacher", "teacher")):
        assert option not in command or role in read
