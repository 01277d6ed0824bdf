"""Networks that were exported for one batch size train with any; those that cannot are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from app.errors import InvalidModel
from tests.workers.torch_programs.networks import Signature, bert, cnn, model, recurrent, transformer, zoo
from workers.torch.lift import lift
from workers.torch.model import TorchModel, example_inputs, leaves
from workers.torch.noise import quiet
from workers.torch.program import export
from workers.torch.signature import program_outputs
from workers.training.rebatch import rebatched


def fixed(module: nn.Module, inputs: Signature) -> tuple[TorchModel, TorchModel]:
    """A network lifted from its export with these sizes, twice: to be changed, and to stay."""
    given = model(module, inputs)
    program = export(given)
    first, second = (replace(given, module=lift(program), outputs=program_outputs(program)) for _ in range(2))
    return first, second


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Signature], tuple[int, ...]]] = {
    "cnn": (cnn, lambda n: [("x", "float32", [n, 3, 16, 16])], (1, 4)),
    "lstm-and-gru": (recurrent, lambda n: [("ids", "int64", [n, 7])], (1, 4)),
    "bert": (bert, lambda n: [("ids", "int64", [n, 8]), ("mask", "int64", [n, 8])], (1,)),
    "transformer": (transformer, lambda n: [("x", "float32", [n, 6, 16])], (1, 4)),
    "shufflenet": (lambda: zoo("shufflenetv2_wd2"), lambda n: [("x", "float32", [n, 3, 64, 64])], (1, 4)),
    "resnet": (lambda: zoo("resnet18_wd4"), lambda n: [("x", "float32", [n, 3, 64, 64])], (1,)),
}


@pytest.mark.parametrize(
    ("make", "inputs", "size"),
    [(make, inputs, size) for make, inputs, sizes in NETWORKS.values() for size in sizes],
    ids=[f"{name}-{size}" for name, (_, _, sizes) in NETWORKS.items() for size in sizes],
)
def test_any_batch_gives_what_samples_give_alone(
    make: Callable[[], nn.Module], inputs: Callable[[int], Signature], size: int
):
    given, original = fixed(make(), inputs(size))
    names = set(given.module.state_dict())
    free = rebatched(given)

    assert [entry["shape"][0] for entry in (*free.inputs, *free.outputs)] == ["batch"] * (
        len(free.inputs) + len(free.outputs)
    )
    assert set(free.module.state_dict()) == names
    parts = [example_inputs(original.inputs, seed) for seed in (7, 8)]
    with torch.no_grad():
        expected = [
            torch.cat(pair) for pair in zip(*(leaves(original.module(*p)) for p in parts), strict=True)
        ]
        together = leaves(free.module(*(torch.cat(pair) for pair in zip(*parts, strict=True))))
        odd = leaves(free.module(*(torch.cat(pair)[: size + 1] for pair in zip(*parts, strict=True))))
    for one, other, some in zip(expected, together, odd, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(some, one[: size + 1], rtol=1e-4, atol=1e-5)


def test_a_network_with_a_free_batch_stays_as_it_is():
    given = model(cnn(), [("x", "float32", ["n", 3, 16, 16])], [("y", "float32", ["n", 5])])

    assert rebatched(given) is given


class Mixing(nn.Module):
    """Takes the mean over its batch: samples that come together are not what they are alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True) + x.square()


class Counting(nn.Module):
    """A table with a row for each sample of the batch that it was exported with."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table


class States(nn.Module):
    """Two inputs whose samples lie on different axes, as states of recurrent layers do."""

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return x + state.transpose(0, 1).mean(1)


REFUSED: dict[str, tuple[nn.Module, Signature, str]] = {
    "mixing": (Mixing(), [("x", "float32", [2, 8])], "'output'"),
    "counting": (Counting(), [("x", "float32", [4, 8])], "size"),
    "states": (States(), [("x", "float32", [3, 8]), ("state", "float32", [2, 3, 8])], "first axis"),
}


@pytest.mark.parametrize(("module", "inputs", "word"), REFUSED.values(), ids=REFUSED.keys())
def test_what_works_with_its_own_batch_alone_is_refused(module: nn.Module, inputs: Signature, word: str):
    given, _ = fixed(module, inputs)
    with pytest.raises(InvalidModel) as refusal:
        rebatched(given)

    assert word in refusal.value.detail
    assert "dynamic_shapes" in (refusal.value.hint or "")


def test_an_onnx_model_of_batch_1_trains(tmp_path: Path):
    """As `torch.onnx.export` writes it by default, through the conversion that the pipeline makes."""
    from tests.workers.training.arrays import digits, train_arrays
    from workers.conversion import convert, open_model
    from workers.onnx_files import save_onnx

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ).eval()
    with quiet():
        written: Any = torch.onnx.export(
            network, (torch.zeros(1, 1, 8, 8),), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )  # fmt: skip
    assert isinstance(written.model_proto, onnx.ModelProto)
    onnx_model = save_onnx(written.model_proto, tmp_path / "onnx")
    (tmp_path / "pt2").mkdir()
    program, _ = convert(open_model(onnx_model), "torch-export", tmp_path / "pt2", 0)
    loop, task = train_arrays(
        program.path, tmp_path / "out", validation=digits(200, 1500), epochs=4, learning_rate=3e-3, metric="top1"
    )  # fmt: skip
    report = loop.run()

    assert task.inputs[0]["shape"] == ["batch", 1, 8, 8]
    assert report.best is not None
    assert report.best > 0.85
