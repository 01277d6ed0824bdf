"""TorchScript files that would run code, open files or read other memory: refused, and nothing ran."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import BurnishError, UnsafeModel, UnsupportedFormat, UnsupportedOperator
from app.models.schemas import read_signature
from tests.workers.formats.scripts import old, opened, saved
from tests.workers.formats.uploads import zipped
from workers.formats import registry
from workers.formats.base import Source


def changed(source: Path, target: Path, member: str, edit: Callable[[bytes], bytes]) -> Path:
    """A copy in which the member whose name ends so was edited."""
    with zipfile.ZipFile(source) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    assert sum(name.endswith(member) for name, _ in members) == 1
    edited = [(name, edit(data) if name.endswith(member) else data) for name, data in members]
    return zipped(target, edited, zipfile.ZIP_STORED)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(nn.Linear(4, 3), tmp_path_factory.mktemp("script") / "linear.pt")


class Creates:
    """Unpickled by Python, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("member", ["/data.pkl", "/constants.pkl", ".py.debug_pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_is_refused_unread(
    member: str, protocol: int, linear: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    file = changed(linear, tmp_path / "m.pt", member, lambda _: pickle.dumps(Creates(mark), protocol))
    with pytest.raises(UnsafeModel, match="mkdir"):
        opened(file, "input:float32:2,4")
    assert not mark.exists()


def test_weights_that_reach_beyond_the_file_are_refused(linear: Path, tmp_path: Path) -> None:
    """torch reads such a file, and then memory that is not the weight's."""

    def claim(data: bytes) -> bytes:
        at = data.index(b"K\x0c", data.index(b"storage"))
        return data[:at] + b"J" + struct.pack("<i", 100_000) + data[at + 2 :]

    file = changed(linear, tmp_path / "m.pt", "/data.pkl", claim)
    with old():
        assert torch.jit.load(str(file)).weight.untyped_storage().nbytes() == 400_000
    with pytest.raises(UnsafeModel, match="claims 400000 bytes"):
        opened(file, "input:float32:2,4")


def test_code_that_runs_while_it_loads_is_refused(tmp_path: Path) -> None:
    class Loads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.training = False

        @torch.jit.export
        def __getstate__(self) -> tuple[int, bool]:
            return 1, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[int, bool]) -> None:
            self.training = state[1]
            torch.zeros(100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(UnsafeModel, match="__setstate__"):
        opened(saved(Loads(), tmp_path / "model.pt"), "x:float32:2")


def test_operators_that_open_files_are_refused_before_they_run(tmp_path: Path) -> None:
    secret, written = tmp_path / "secret", tmp_path / "written"
    secret.write_bytes(bytes(8))

    class Reads(nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file(self.path, size=2)

    class Writes(Reads):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, self.path)
            return x

    for network, name in ((Reads(str(secret)), "from_file"), (Writes(str(written)), "save")):
        with pytest.raises(UnsafeModel, match=f"aten::{name}") as caught:
            opened(saved(network, tmp_path / "model.pt"), "x:float32:2")
        assert "test_torchscript_hostile.py:" in str(caught.value.node)
    assert not written.exists()


def test_quantized_modules_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)).eval(), {nn.Linear})
    with pytest.raises((UnsafeModel, UnsupportedFormat)) as caught:
        opened(saved(network, tmp_path / "model.pt"), "input:float32:2,4")
    assert "before it was quantized" in str(caught.value.hint)


def test_damage_ends_in_a_problem_of_the_upload(
    linear: Path, tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    format_ = registry.alone("torchscript")
    said = {"signature": read_signature(["input:float32:2,4"]).model_dump()}
    file, codes = tmp_path / "damaged", set()
    for data in damaged(linear.read_bytes()):
        file.write_bytes(data)
        try:
            assert format_.open(Source(tmp_path, file.name, said)).outputs
        except BurnishError as error:
            codes.add(error.code)
    assert codes <= {"invalid_model", "unsafe_model", "signature_mismatch", "unsupported_operator"}
    assert "invalid_model" in codes


def test_unknown_operators_are_named(linear: Path, tmp_path: Path) -> None:
    file = changed(
        linear,
        tmp_path / "m.pt",
        ".py",
        lambda text: text.replace(b"torch.linear", b"ops.torchvision.nms"),
    )
    with pytest.raises(UnsupportedOperator, match="torchvision"):
        opened(file, "input:float32:2,4")


def test_other_files_are_not_recognized(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 3).state_dict(), buffer)
    for data in (b"", b"PK\x03\x04", buffer.getvalue()):
        (tmp_path / "file").write_bytes(data)
        assert not registry.alone("torchscript").recognizes(tmp_path / "file")
