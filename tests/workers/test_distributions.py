"""Versions are found whichever build of a library is installed."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from workers import distributions


def test_what_is_installed_has_its_version() -> None:
    assert distributions.versions_of(["onnx", "onnxruntime"]) == {
        "onnx": version("onnx"),
        "onnxruntime": version("onnxruntime"),
    }


def test_a_gpu_build_counts_as_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "onnxruntime_gpu-9.8.7.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.8.7\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert distributions.versions_of(["onnxruntime"]) == {"onnxruntime": "9.8.7"}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(PackageNotFoundError, match="no-such-distribution"):
        distributions.versions_of(["no-such-distribution"])
