"""Exported programs as people save them: opened without running what stands in them, run, turned into ONNX, trained."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

from app.errors import BurnishError, InvalidModel, SignatureMismatch, UnsafeModel
from tests.workers.formats.uploads import inspected, zipped
from workers.formats import registry
from workers.formats.base import Source
from workers.torch.exported import OpenedProgram
from workers.torch.noise import quiet

LEAST_SQNR_DB = 90


class Cnn(nn.Module):
    """Convolutions with a batch norm that has seen something."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)
        )
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.body[1].running_mean, -1, 1)
        nn.init.uniform_(self.body[1].running_var, 0.5, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.body(image).mean([2, 3])), -1)


class Recurrent(nn.Module):
    """An LSTM, and a branch that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, sequence: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.lstm(sequence)[0]
        scores = self.head(states[:, -1])
        scores = torch.cond(sequence.sum() > 0, lambda x: torch.relu(x) + 1, lambda x: x * 2, (scores,))
        return {"scores": scores, "states": states}


class Encoder(nn.Module):
    """torch's own encoder layer over token ids, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embedding(tokens) * mask.unsqueeze(-1))


Made = tuple[nn.Module, tuple[torch.Tensor, ...], Any]
NETWORKS: dict[str, tuple[Callable[[], Made], list[list[Any]], dict[str, list[Any]]]] = {
    "cnn": (
        lambda: (Cnn(), (torch.rand(2, 3, 16, 16),), ({0: Dim("batch", min=1, max=64)},)),
        [[0, 3, 16, 16]],
        {"output": [0, 5]},
    ),
    "lstm": (
        lambda: (Recurrent(), (torch.rand(2, 7, 4),), ({0: Dim.DYNAMIC},)),
        [[0, 7, 4]],
        {"scores": [0, 2], "states": [0, 7, 6]},
    ),
    "transformer": (
        lambda: (
            Encoder(),
            (torch.arange(14).reshape(2, 7), torch.ones(2, 7)),
            ({0: Dim.DYNAMIC, 1: Dim("length", max=128)}, {0: Dim.DYNAMIC, 1: Dim("length", max=128)}),
        ),
        [[0, 1], [0, 1]],
        {"output": [0, 1, 16]},
    ),
}  # free dimensions are numbers below 2 here


def saved(made: Made, path: Path) -> Path:
    network, example, shapes = made
    with quiet():
        program = torch.export.export(network.eval(), example, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def opened(path: Path) -> OpenedProgram:
    format_ = registry.alone("torch-export")
    assert format_.recognizes(path)
    found = format_.open(Source(path.parent, path.name))
    assert isinstance(found, OpenedProgram)
    return found


def named(shape: list[Any], names: list[Any]) -> list[Any]:
    return [names[dim] if dim < 2 else dim for dim in shape]


def free_of(model: OpenedProgram) -> list[str]:
    return list(
        dict.fromkeys(dim for entry in model.inputs for dim in entry["shape"] if isinstance(dim, str))
    )


def feeds_of(model: OpenedProgram, seed: int, sizes: list[int]) -> dict[str, np.ndarray]:
    rng, free = np.random.default_rng(seed), dict(zip(free_of(model), sizes, strict=False))
    feeds = {}
    for entry in model.inputs:
        shape = [free.get(dim, dim) for dim in entry["shape"]]
        values = rng.integers(0, 50, shape) if "int" in entry["dtype"] else rng.standard_normal(shape)
        feeds[entry["name"]] = values.astype(entry["dtype"])
    return feeds


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    noise = np.square(wanted.astype(np.float64) - got).sum()
    return (
        float("inf")
        if noise == 0
        else float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / noise))
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_runs_and_becomes_onnx(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    make, inputs, outputs = NETWORKS[name]
    made = make()
    model = opened(saved(made, tmp_path / "model.pt2"))
    free = free_of(model)
    assert [entry["shape"] for entry in model.inputs] == [named(shape, free) for shape in inputs]
    assert {entry["name"]: entry["shape"] for entry in model.outputs} == {
        key: named(shape, free) for key, shape in outputs.items()
    }
    (tmp_path / "onnx").mkdir()
    path = model.to_onnx(tmp_path / "onnx").path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {value.name: value.shape for value in session.get_inputs()} == {
        entry["name"]: entry["shape"] for entry in model.inputs
    }
    for sizes, sign in (([2, 5], 1), ([3, 9], -1)):
        feeds = feeds_of(model, 1, sizes)
        if "sequence" in feeds:  # both branches
            feeds["sequence"] = sign * np.abs(feeds["sequence"])
        wanted = model.run(feeds)
        with torch.no_grad():
            found = made[0](*(torch.from_numpy(value) for value in feeds.values()))
        first = next(iter(found.values())) if isinstance(found, dict) else found
        np.testing.assert_allclose(next(iter(wanted.values())), first.numpy(), atol=1e-5)
        for value, got in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            assert sqnr_db(wanted[value.name], got) > LEAST_SQNR_DB
    if name == "lstm":
        assert "If" in {node.op_type for node in onnx.load(path).graph.node}


def test_what_a_program_is(tmp_path: Path) -> None:
    model = opened(saved(NETWORKS["cnn"][0](), tmp_path / "m.pt2"))
    facts, weights = model.facts, sum(value.numel() for value in Cnn().parameters())
    assert facts["producer"] == f"torch {torch.__version__}"
    assert (facts["parameters"], facts["buffers"]) == (weights, 17)
    assert facts["dtypes"] == {"float32": weights + 16, "int64": 1}
    assert facts["free_dimensions"] == {free_of(model)[0]: {"min": 1, "max": 64}}
    assert facts["precision"] == "fp32"


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float64, "fp32")],
    ids=str,
)
def test_the_precision_is_that_of_the_layers(dtype: torch.dtype, precision: str, tmp_path: Path) -> None:
    made = (nn.Linear(4, 3).to(dtype), (torch.ones(2, 4, dtype=dtype),), None)
    assert opened(saved(made, tmp_path / "m.pt2")).facts["precision"] == precision


def test_it_becomes_a_module_that_trains(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = opened(saved(NETWORKS["cnn"][0](), tmp_path / "m.pt2"))
    trained = model.to_torch()
    feeds = feeds_of(model, 1, [4])
    found = trained.module(torch.from_numpy(feeds["image"]))
    np.testing.assert_allclose(found.detach().numpy(), model.run(feeds)["output"], atol=1e-6)
    assert not trained.module.training
    found.square().sum().backward()
    assert all(value.grad is not None for value in trained.module.parameters())
    assert (trained.inputs, trained.outputs) == (tuple(model.inputs), tuple(model.outputs))


def test_feeds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = opened(saved(NETWORKS["cnn"][0](), tmp_path / "m.pt2"))
    for feeds in (
        {"image": np.zeros((1, 3, 16), np.float32)},
        {"image": np.zeros((65, 3, 16, 16), np.float32)},
        {"image": np.zeros((1, 3, 16, 16))},
        {"picture": np.zeros((1, 3, 16, 16), np.float32)},
    ):
        with pytest.raises(SignatureMismatch):
            model.run(feeds)


def test_an_upload_is_inspected_as_a_program(tmp_path: Path) -> None:
    file = saved(NETWORKS["cnn"][0](), tmp_path / "m.pt2").rename(tmp_path / "upload.bin")
    found = inspected(file)
    assert found["format"] == "torch-export"
    assert found["facts"]["conversions"]["onnx"]["checked"]
    assert found["facts"]["free_dimensions"]
    packed = zipped(tmp_path / "packed.zip", [("net/m.pt2", file.read_bytes())])
    assert inspected(packed)["signature"] == found["signature"]


class Creates:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = (nn.Linear(4, 3), (torch.ones(2, 4),), None)
    return saved(made, tmp_path_factory.mktemp("pt2") / "good.pt2")


@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/constants/custom_obj_0"])
def test_a_pickle_inside_is_refused_unread(member: str, good: Path, tmp_path: Path) -> None:
    mark, buffer = tmp_path / "mark", io.BytesIO()
    torch.save(Creates(mark), buffer)
    for name, data in (("raw", pickle.dumps(Creates(mark))), ("saved", buffer.getvalue())):
        with zipfile.ZipFile(good) as archive:
            members = {key: archive.read(key) for key in archive.namelist()}
        top = next(iter(members)).partition("/")[0]
        file = zipped(
            tmp_path / name, list((members | {f"{top}/{member}": data}).items()), zipfile.ZIP_STORED
        )
        with pytest.raises(UnsafeModel):
            opened(file)
    assert not mark.exists()


def test_files_of_an_older_layout_are_recognized_and_named(tmp_path: Path) -> None:
    program = json.dumps({"schema_version": {"major": 5, "minor": 1}}).encode()
    file = zipped(tmp_path / "old.pt2", [("version", b"5.1"), ("serialized_exported_program.json", program)])
    with pytest.raises(InvalidModel, match=r"2\.7 or older"):
        opened(file)


def test_damage_ends_in_a_problem_of_the_upload(
    good: Path, tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    format_, codes = registry.alone("torch-export"), set()
    for data in damaged(good.read_bytes()):
        (tmp_path / "damaged").write_bytes(data)
        try:
            assert format_.open(Source(tmp_path, "damaged")).outputs
        except BurnishError as error:
            codes.add(error.code)
    assert codes <= {"invalid_model", "unsafe_model", "unsupported_operator"}
    assert "invalid_model" in codes


def test_other_files_are_not_recognized(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 3).state_dict(), buffer)
    for data in (b"", b"PK\x03\x04", buffer.getvalue()):
        (tmp_path / "file").write_bytes(data)
        assert not registry.alone("torch-export").recognizes(tmp_path / "file")
