"""Networks that were exported for one batch size train with any; those that cannot are refused."""

import warnings
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
from tests.workers.training.arrays import digits, train_arrays
from workers.conversion import convert, open_model
from workers.onnx_files import save_onnx
from workers.torch.lift import lift
from workers.torch.model import TorchModel, example_inputs, leaves
from workers.torch.noise import quiet
from workers.torch.program import export, load_program
from workers.torch.signature import program_outputs
from workers.training.rebatch import rebatched


def fixed(module: nn.Module, inputs: Signature) -> tuple[TorchModel, TorchModel]:
    """A network lifted from its export with these sizes, twice: to be changed, and to stay."""
    given = model(module, inputs)
    program = export(given)
    first, second = (replace(given, module=lift(program), outputs=program_outputs(program)) for _ in range(2))
    return first, second


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def roberta() -> nn.Module:
    """Counts its positions from the mask's ones, out of a table for one sample."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    class Roberta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.roberta = RobertaForSequenceClassification(RobertaConfig(vocab_size=120, **SMALL))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.roberta(input_ids=ids, attention_mask=mask).logits

    torch.manual_seed(0)
    return Roberta().eval()


def vit() -> nn.Module:
    """Puts a token of its own before the patches of each sample."""
    from transformers import ViTConfig, ViTForImageClassification

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **SMALL))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.vit(x).logits

    torch.manual_seed(0)
    return Vit().eval()


def tokens(n: int) -> Signature:
    return [("ids", "int64", [n, 8]), ("mask", "int64", [n, 8])]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Signature], tuple[int, ...]]] = {
    "cnn": (cnn, lambda n: [("x", "float32", [n, 3, 16, 16])], (1, 4)),
    "lstm-and-gru": (recurrent, lambda n: [("ids", "int64", [n, 7])], (1, 4)),
    "bert": (bert, tokens, (1, 4, 8)),
    "roberta": (roberta, tokens, (1, 4)),
    "vit": (vit, lambda n: [("x", "float32", [n, 3, 32, 32])], (1, 4)),
    "transformer": (transformer, lambda n: [("x", "float32", [n, 6, 16])], (1, 4)),
    "shufflenet": (lambda: zoo("shufflenetv2_wd2"), lambda n: [("x", "float32", [n, 3, 64, 64])], (1, 4)),
    "resnet": (lambda: zoo("resnet18_wd4"), lambda n: [("x", "float32", [n, 3, 64, 64])], (1,)),
}


def inputs_of(network: TorchModel, seed: int) -> list[torch.Tensor]:
    """Seeded inputs; tokens and masks of each sample are its own, the first token counts always."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for entry, value in zip(network.inputs, example_inputs(network.inputs, seed), strict=True):
        if entry["name"] == "ids":
            value = torch.randint(2, 50, value.shape, generator=random)
        if entry["name"] == "mask":
            value = torch.randint(0, 2, value.shape, generator=random).index_fill(1, torch.tensor(0), 1)
        found.append(value)
    return found


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
    parts = [inputs_of(original, seed) for seed in (7, 8)]
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


class FirstMask(nn.Module):
    """Counts with the mask of its first sample for all."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask[:1]


def test_a_mask_of_another_sample_is_found_out():
    """Masks that are generated hold ones alone, and would tell nothing."""
    given, _ = fixed(FirstMask(), [("x", "float32", [1, 8]), ("mask", "int64", [1, 8])])
    with pytest.raises(InvalidModel, match="'output'"):
        rebatched(given)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_a_bert_as_onnx_gives_what_samples_give_alone(dynamo: bool, size: int, tmp_path: Path):
    """Exporters to ONNX compute numbers of samples beforehand, and write constants once for each sample."""
    example = (torch.ones(size, 8, dtype=torch.int64), torch.ones(size, 8, dtype=torch.int64))
    file = tmp_path / "model.onnx"
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            bert(), example, str(file), dynamo=dynamo, input_names=["ids", "mask"], output_names=["scores"], verbose=False
        )  # fmt: skip
        (tmp_path / "pt2").mkdir()
        held = save_onnx(onnx.load(str(file)), tmp_path / "onnx")
        path, _ = convert(open_model(held), "torch-export", tmp_path / "pt2", 0)
    program = load_program(path.path)
    given, original = (TorchModel(lift(program.program), program.inputs, program.outputs) for _ in range(2))
    free = rebatched(given)
    parts = [inputs_of(original, seed) for seed in (7, 8)]
    with torch.no_grad():
        expected = torch.cat([leaves(original.module(*part))[0] for part in parts])
        (together,) = leaves(free.module(*(torch.cat(pair) for pair in zip(*parts, strict=True))))

    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_an_onnx_model_of_batch_1_trains(tmp_path: Path):
    """As `torch.onnx.export` writes it by default, through the conversion that the pipeline makes."""
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
