"""What people upload, as files: each kind of network in each format that can hold it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.workers.torch_programs import networks

KINDS = ("cnn", "recurrent", "encoder", "detector")
IMAGE = ("x", "float32", ["batch", 3, 32, 32])
TOKENS = ("ids", "int64", ["batch", 12])
ENCODED = [("input_ids", "int64", ["batch", "sequence"]), ("attention_mask", "int64", ["batch", "sequence"])]
Inputs = list[tuple[str, str, list[Any]]]


@dataclass(frozen=True)
class Upload:
    """A file, and what its uploader says of it."""

    file: Path
    declared: dict[str, Any] = field(default_factory=dict)


class Stepwise(nn.Module):
    """A recurrent classifier whose loop ends early on the data: control flow that stays in a script."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 8)
        self.cell = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.cell(self.table(ids))
        last = hidden[:, -1]
        last = last * 2.0 if bool(last.sum() > 0) else last - 1.0
        return self.head(last)


class Detector(nn.Module):
    """Convolutions, decoded boxes, and the best five of them by score."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(x)
        boxes = self.boxes(features).flatten(2).transpose(1, 2).sigmoid()
        scores = self.scores(features).flatten(1)
        best, index = torch.topk(scores, 5, dim=1)
        return torch.gather(boxes, 1, index.unsqueeze(-1).expand(-1, -1, 4)), best


def detector() -> nn.Module:
    torch.manual_seed(2)
    return Detector()


def stepwise() -> nn.Module:
    torch.manual_seed(3)
    return Stepwise()


TORCH: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "cnn": (networks.cnn, [IMAGE]),
    "recurrent": (networks.recurrent, [("ids", "int64", ["batch", "sequence"])]),
    "encoder": (networks.bert, ENCODED),
    "detector": (detector, [IMAGE]),
}


def program(kind: str, folder: Path) -> Upload:
    """A `.pt2`, exported as users do."""
    from workers.torch.program import export

    build, inputs = TORCH[kind]
    model = networks.model(build(), inputs)
    file = folder / "net.pt2"
    torch.export.save(export(model), file)
    return Upload(file)


def onnx(kind: str, folder: Path) -> Upload:
    """The ONNX of the same network."""
    from workers.torch.opened import OpenedTorch, with_outputs

    build, inputs = TORCH[kind]
    opened = OpenedTorch(with_outputs(networks.model(build(), inputs)))
    return Upload(opened.to_onnx(folder / "onnx").path)


def script(kind: str, folder: Path) -> Upload:
    """A scripted module with its signature; the recurrent one keeps an `if`."""
    build, inputs = (stepwise, [TOKENS]) if kind == "recurrent" else TORCH[kind]
    module = build().eval()
    file = folder / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript's own deprecation
        if kind == "encoder":
            example = (torch.ones(2, 12, dtype=torch.int64),) * 2
            torch.jit.save(torch.jit.trace(module, example), file)
        else:
            torch.jit.save(torch.jit.script(module), file)
    signature = [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in inputs]
    if kind == "cnn":
        signature[0]["name"] = "input"  # what nn.Sequential calls it
    return Upload(file, {"signature": {"inputs": signature, "outputs": []}})


def keras(kind: str, folder: Path) -> Upload | None:
    """Keras models of the same kinds."""
    from tests.workers.formats import keras_models as models

    build = {"cnn": models.convolutional, "recurrent": models.recurrent, "encoder": models.attentive}.get(
        kind
    )
    if build is None:
        return None
    models.seed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own, where it saves on PyTorch with numpy 2
        return Upload(models.saved(build(), folder / "net.keras"))


def transformers(kind: str, folder: Path) -> Upload | None:
    """An encoder as `save_pretrained` leaves it, packed."""
    import shutil

    from tests.workers.formats import pretrained

    if kind != "encoder":
        return None
    saved = pretrained.saved(pretrained.bert("BertForSequenceClassification"), folder / "bert")
    return Upload(Path(shutil.make_archive(str(folder / "bert"), "zip", saved)))


def state_dict(kind: str, folder: Path) -> Upload | None:
    """Weights of an architecture of the zoo."""
    from tests.workers.formats import state_dicts

    if kind != "cnn":
        return None
    architecture = "resnet10(num_classes=10)"
    file = state_dicts.saved(state_dicts.trained(architecture).state_dict(), folder, state_dicts.safetensors)
    return Upload(file, {"architecture": architecture})


FORMATS: dict[str, Callable[[str, Path], Upload | None]] = {
    "onnx": onnx,
    "torch-export": program,
    "torchscript": script,
    "keras": keras,
    "transformers": transformers,
    "state-dict": state_dict,
}
