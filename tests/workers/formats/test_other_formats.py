"""What is not taken yet is named for what it is, whatever it is called, and never loaded."""

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from app.errors import InvalidModel, SignatureMismatch, UnsafeModel, UnsupportedFormat
from tests.workers.formats.uploads import graph_model, inspected, linear, tarred, tensor, value, zipped


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_unread(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "model.onnx"
    file.write_bytes(pickle.dumps(Trap(mark), protocol))
    with pytest.raises(UnsafeModel, match="pickle") as caught:
        inspected(file)
    assert "torch.onnx.export" in str(caught.value.hint)
    assert not mark.exists()


@pytest.mark.parametrize("zip_form", [True, False])
def test_a_pickled_network_is_refused_with_the_lines_that_export_it(zip_form: bool, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    torch.save(torch.nn.Linear(2, 3), file, _use_new_zipfile_serialization=zip_form)
    with pytest.raises(UnsafeModel, match="pickle") as caught:
        inspected(file)
    lines = str(caught.value.hint).split("`")[1::2][:3]
    assert [line.partition(" ")[0] for line in lines] == ["import", "program", "torch.export.save(program,"]
    given = {"model": torch.nn.Linear(2, 3), "example": torch.ones(1, 2)}
    written = tmp_path / "exported"
    written.mkdir()
    exec("\n".join(lines).replace("model.pt2", str(written / "model.pt2")), given)
    assert inspected(written / "model.pt2")["format"] == "torch-export"


def test_a_pickled_network_inside_an_archive_is_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "w.pt")
    file = tarred(tmp_path / "a.tar.gz", [("net/w.pt", (tmp_path / "w.pt").read_bytes())], "w:gz")
    with pytest.raises(UnsafeModel, match="PyTorch pickle"):
        inspected(file)


def test_formats_of_pytorch_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 3).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript's own deprecation
        torch.jit.save(torch.jit.trace(net, torch.ones(1, 2)), tmp_path / "script.onnx")
    torch.export.save(torch.export.export(net, (torch.ones(1, 2),)), tmp_path / "program.pt2")
    (tmp_path / "program.pt2").rename(tmp_path / "program.pth")
    assert inspected(tmp_path / "program.pth")["format"] == "torch-export"
    with pytest.raises(SignatureMismatch, match="TorchScript"):
        inspected(tmp_path / "script.onnx")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite"),
        (b'{"ir_version": 8}', "text"),
        (b'<?xml version="1.0"?><net/>', "text"),
    ],
)
def test_known_single_files_are_named_with_a_way_out(content: bytes, found: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UnsupportedFormat, match=found) as caught:
        inspected(file)
    assert "ONNX" in str(caught.value.hint) or "onnx" in str(caught.value.hint)


def test_a_dataset_is_no_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((2, 3)))
    with pytest.raises(UnsupportedFormat, match="a dataset, not a model") as caught:
        inspected(tmp_path / "d.npz")
    assert "burnish datasets upload" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, bytes(range(256)) * 4])
def test_what_nobody_knows_is_no_valid_model(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(InvalidModel):
        inspected(file)


def test_a_format_that_was_declared_must_be_one_that_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_bytes(linear().SerializeToString())
    assert inspected(file, declared={"format": "onnx"})["format"] == "onnx"
    with pytest.raises(UnsupportedFormat, match="declared"):
        inspected(file, declared={"format": "keras"})


def test_bytes_of_an_archive_at_the_end_of_a_model_change_nothing(tmp_path: Path) -> None:
    """A weight may hold anything, also what ends a zip."""
    archive = zipped(tmp_path / "a.zip", [("evil.onnx", b"x" * 6)]).read_bytes()
    model = graph_model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", [1])], [value("y", [1])],
        [tensor("last", np.frombuffer(archive, np.uint8), np.uint8)],
    )  # fmt: skip
    file = tmp_path / "m"
    file.write_bytes(model.SerializeToString())
    assert zipfile.is_zipfile(file)
    assert inspected(file)["facts"]["operators"] == {"Identity": 1}


@pytest.mark.parametrize(
    ("content", "named", "hint"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "JPEG", "burnish formats"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG", "burnish formats"),
        (b"GGUF\x03" + bytes(100), "GGUF", "burnish formats"),
        ("Größen der Schichten\n".encode() * 300, "text", "burnish formats"),
        (b"ir_version: 8\ngraph {}", "text", "burnish formats"),
    ],
    ids=["jpeg", "png", "gguf", "text", "short text"],
)
def test_what_is_no_model_is_called_what_it_is(content: bytes, named: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UnsupportedFormat, match=named) as caught:
        inspected(tmp_path / "model.onnx")
    assert hint in str(caught.value.hint)


def test_files_that_were_cut_short_say_so(tmp_path: Path) -> None:
    whole = linear().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidModel, match="cut short") as caught:
        inspected(tmp_path / "model.onnx")
    assert "compare its size" in str(caught.value.hint)
    archive = zipped(tmp_path / "whole.zip", [("model.onnx", whole)]).read_bytes()
    (tmp_path / "part.zip").write_bytes(archive[: len(archive) - 30])
    with pytest.raises(InvalidModel, match="cut short"):
        inspected(tmp_path / "part.zip")
