"""What `make bench` names is there, and what is written into a page has its place on it."""

from importlib import import_module

import pytest

from benchmarks import surgery, training
from benchmarks.__main__ import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_can_be_started(name: str):
    assert callable(import_module(f"benchmarks.{name}").main)


@pytest.mark.parametrize("package", [surgery, training], ids=["surgery", "training"])
def test_each_part_has_its_place(package):
    content = package.PAGE.read_text(encoding="utf-8")
    for part in package.PARTS:
        assert callable(import_module(f"{package.__name__}.{part}").run)
        assert content.count(f"<!-- {part} -->") == content.count(f"<!-- /{part} -->") == 1
