"""Programs as ONNX: names and free dimensions of the signature, and the same outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from app.errors import InvalidModel, UnsupportedOperator
from tests.workers.torch_programs import networks
from workers.formats import onnx as onnx_format
from workers.model_handle import ModelHandle
from workers.torch.program import TorchModel, example_inputs, export, load_program, runner, save_program
from workers.torch.to_onnx import program_to_onnx

IMAGES = [("input.1", "float32", ["batch", 3, "height", "width"])]
IDS = [("input_ids", "int64", ["batch", "sequence"]), ("attention_mask", "int64", ["batch", "sequence"])]


class Twice(nn.Module):
    """Gives an input itself, one value twice, and nothing in between; does not read its second input."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        z = x.relu()
        return {"same": x, "z": z, "none": None, "again": (z, x)}


class Deep(nn.Module):
    """An operator that ONNX does not have, inside a module inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Sequential(nn.ReLU(), _Singular())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(x)


class _Singular(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1]


@pytest.mark.parametrize(
    ("make", "inputs", "outputs", "sizes"),
    [
        (networks.cnn, IMAGES, [("scores", "float32", ["batch", 5])], {"height": 19, "width": 26}),
        (networks.bert, IDS, [("logits", "float32", ["batch", "sequence", 120])], {"sequence": 9}),
        (networks.recurrent, [("ids", "int64", ["batch", 7])], [("scores", "float32", ["batch", 3])], {}),
        (
            networks.transformer,
            [("x", "float32", [None, None, 16])],
            [("y", "float32", [None, None, 16])],
            {},
        ),
        (
            Twice,
            [("a:0", "float32", ["n", 3]), ("b", "float32", ["n", 3])],
            [(name, "float32", ["n", 3]) for name in ("b1", "relu", "x", "out/3")],
            {},
        ),
    ],
    ids=["cnn", "bert", "recurrent", "transformer", "identities"],
)  # fmt: skip
def test_the_same_outputs_under_the_same_names(
    make: Callable[[], nn.Module],
    inputs: networks.Signature,
    outputs: networks.Signature,
    sizes: dict[str, int],
    tmp_path: Path,
) -> None:
    model = networks.model(make(), inputs, outputs)
    save_program(export(model), model.inputs, model.outputs, tmp_path / "m.pt2")
    program = load_program(tmp_path / "m.pt2")
    handle = program_to_onnx(program.program, program.inputs, program.outputs, tmp_path / "onnx")
    found = onnx_format.describe(handle.root, handle.entry, onnx_format.check(handle.root, handle.entry))
    assert found["signature"] == {"inputs": list(model.inputs), "outputs": list(model.outputs)}
    assert found["facts"]["opset"] >= 18
    assert not found["facts"]["warnings"]
    session = onnxruntime.InferenceSession(str(handle.path), providers=["CPUExecutionProvider"])
    run = runner(program)
    for batch in (1, 3):
        feeds = _feeds(model, batch, sizes)
        given, expected = session.run(None, feeds), run(feeds)
        for entry, value in zip(model.outputs, given, strict=True):
            assert _sqnr(expected[entry["name"]], value) > 100


def test_the_same_network_has_the_same_bytes_and_tells_no_paths(tmp_path: Path) -> None:
    model = networks.model(networks.cnn(), IMAGES, [("y", "float32", ["batch", 5])])
    first, second = (_convert(model, tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest
    assert b"site-packages" not in first.path.read_bytes()
    dims = {
        dim.dim_param
        for value in onnx.load(first.path).graph.value_info
        for dim in value.type.tensor_type.shape.dim
    }
    assert not any(name.startswith("s") for name in dims)


def test_an_operator_without_a_form_is_named_with_its_place(tmp_path: Path) -> None:
    model = networks.model(Deep(), [("x", "float32", [4, 4])], [("y", "float32", [4])])
    with pytest.raises(UnsupportedOperator, match=r"_linalg_svd\.default has no form") as caught:
        _convert(model, tmp_path)
    node = str(caught.value.node)
    assert "svd" in node
    assert "test_to_onnx.py:" in node
    assert "module 'outer.1'" in node


@pytest.mark.parametrize(
    ("outputs", "message"),
    [([("y", "float64", ["batch", 5])], "float32 with 2 dimensions"), ([], "has the outputs")],
    ids=["dtype", "number"],
)
def test_a_signature_that_is_not_the_programs(
    outputs: networks.Signature, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidModel, match=message):
        _convert(networks.model(networks.cnn(), IMAGES, outputs), tmp_path)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _convert(networks.model(networks.cnn(), IMAGES, [("y", "float32", ["batch", 5])]), tmp_path)
    assert capfd.readouterr() == ("", "")


def _convert(model: TorchModel, out: Path) -> ModelHandle:
    return program_to_onnx(export(model), model.inputs, model.outputs, out)


def _feeds(model: TorchModel, batch: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    tensors = example_inputs(model.inputs, seed=7, free=batch, dims=sizes)
    return {entry["name"]: tensor.numpy() for entry, tensor in zip(model.inputs, tensors, strict=True)}


def _sqnr(expected: np.ndarray, given: np.ndarray) -> float:
    """In decibels."""
    noise = float(((expected.astype("float64") - given) ** 2).sum())
    return (
        float("inf") if noise == 0 else float(10 * np.log10((expected.astype("float64") ** 2).sum() / noise))
    )


class OneChannel(nn.Module):
    """Tokens of one channel become an image: its axis of size 1 has the stride of channels that lie last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixed, self.head = nn.Linear(1, 1), nn.Linear(72, 5)
        self.convolutions = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1, groups=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.mixed(x.flatten(2).transpose(1, 2))
        return self.head(self.convolutions(tokens.transpose(1, 2).reshape(-1, 1, 6, 6)).flatten(1))


def test_one_channel_that_was_transposed(tmp_path: Path):
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 6, 6]}]
    model = TorchModel(
        OneChannel().eval(), inputs, [{"name": "y", "dtype": "float32", "shape": ["batch", 5]}]
    )
    program = export(model)
    before = str(program.graph)
    handle = program_to_onnx(program, model.inputs, model.outputs, tmp_path)
    assert str(program.graph) == before, "the program is left as it was"
    x = torch.randn(3, 1, 6, 6)
    (found,) = onnxruntime.InferenceSession(str(handle.path)).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, model.module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert "Identity" not in {node.op_type for node in onnx.load(str(handle.path)).graph.node}
