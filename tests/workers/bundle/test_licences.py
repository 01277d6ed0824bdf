"""What a bundle says of licences."""

from pathlib import Path

from workers.bundle.licences import copy_files, licences, of_package
from workers.bundle.text import licence_lines
from workers.model_handle import ModelHandle


def model(root: Path, *names: str) -> ModelHandle:
    for name in names:
        path = root / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return ModelHandle(root / "model", "net/model.onnx", "onnx", "0" * 64)


def test_licence_files_come_along_and_nothing_else(tmp_path: Path) -> None:
    subject = model(
        tmp_path,
        "net/model.onnx", "net/weights.bin", "LICENSE", "NOTICE.txt", "net/COPYING", "licenses.py", "other/LICENSE",
    )  # fmt: skip
    (tmp_path / "model" / "LICENCE").symlink_to("/etc/hostname")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert copy_files(subject, bundle) == ["licences/COPYING", "licences/LICENSE", "licences/NOTICE.txt"]
    assert sorted(path.name for path in (bundle / "licences").iterdir()) == [
        "COPYING",
        "LICENSE",
        "NOTICE.txt",
    ]
    assert (bundle / "licences" / "COPYING").read_text() == "net/COPYING"


def test_what_was_said_and_what_packages_say(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    found = licences(
        model(tmp_path, "net/model.onnx"),
        "MIT",
        ["onnxruntime", "numpy", "no-such-package"],
        tmp_path / "bundle",
    )
    assert found["model"] == {"licence": "MIT", "files": []}
    told = {one["package"]: one["licence"] for one in found["packages"]}
    assert list(told) == ["no-such-package", "numpy", "onnxruntime"]
    assert told["no-such-package"] is None
    assert "MIT" in told["onnxruntime"]
    assert "BSD" in told["numpy"]
    lines = licence_lines(found)
    assert lines[0] == "- the model: MIT"
    assert any("onnxruntime" in line and "not part of this bundle" in line for line in lines)
    assert licence_lines({**found, "model": {"licence": None, "files": []}})[0].endswith(
        "not said at its upload"
    )


def test_every_package_of_a_runtime_says_its_licence() -> None:
    for package in ("torch", "openvino", "onnxruntime", "numpy"):
        assert of_package(package)["licence"], package
