"""Small models of the transformers package as people save them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save_file

from workers.formats.base import Source
from workers.formats.transformers import Transformers
from workers.torch.opened import OpenedTorch
from workers.torch.transformers import transformers_library

LEAST_SQNR_DB = 80
library = transformers_library()
SMALL = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130,
}  # fmt: skip
TOKENS = ["batch", "sequence"]


def bert(name: str, **given: Any) -> Any:
    return getattr(library, name)(library.BertConfig(**SMALL, **given))


def roberta() -> Any:
    return library.RobertaForSequenceClassification(library.RobertaConfig(**SMALL, type_vocab_size=1))


def distilbert() -> Any:
    config = library.DistilBertConfig(
        vocab_size=200, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=5
    )
    return library.DistilBertForTokenClassification(config)


def gpt2() -> Any:
    config = library.GPT2Config(
        vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    return library.GPT2LMHeadModel(config)


def t5_encoder() -> Any:
    return library.T5EncoderModel(
        library.T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def vit() -> Any:
    config = library.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
        patch_size=8, num_labels=5,
    )  # fmt: skip
    return library.ViTForImageClassification(config)


def resnet() -> Any:
    config = library.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1], layer_type="basic", num_labels=4
    )
    return library.ResNetForImageClassification(config)


MODELS: dict[str, tuple[Callable[[], Any], list[str], dict[str, list[Any]]]] = {
    "bert": (
        lambda: bert("BertForSequenceClassification", num_labels=3),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"logits": ["batch", 3]},
    ),
    "bert base": (
        lambda: bert("BertModel"),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"last_hidden_state": [*TOKENS, 32], "pooler_output": ["batch", 32]},
    ),
    "bert answers": (
        lambda: bert("BertForQuestionAnswering"),
        ["input_ids", "attention_mask", "token_type_ids"],
        {"start_logits": TOKENS, "end_logits": TOKENS},
    ),
    "distilbert": (distilbert, ["input_ids", "attention_mask"], {"logits": [*TOKENS, 5]}),
    "roberta": (roberta, ["input_ids", "attention_mask"], {"logits": ["batch", 2]}),
    "gpt2": (gpt2, ["input_ids", "attention_mask"], {"logits": [*TOKENS, 200]}),
    "t5 encoder": (t5_encoder, ["input_ids", "attention_mask"], {"last_hidden_state": [*TOKENS, 32]}),
    "vit": (vit, ["pixel_values"], {"logits": ["batch", 5]}),
    "resnet": (resnet, ["pixel_values"], {"logits": ["batch", 4]}),
}


def saved(model: Any, folder: Path) -> Path:
    """A model's folder."""
    library.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def opened(folder: Path, **declared: Any) -> OpenedTorch:
    entry = Transformers().find_entry(folder)
    assert entry == "config.json"
    return Transformers().open(Source(folder, entry, declared))


def changed(folder: Path, **told: Any) -> Path:
    """The folder with another configuration; `None` takes a key out."""
    config = json.loads((folder / "config.json").read_text()) | told
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    return folder


def feeds_of(model: OpenedTorch, batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Token numbers whose first row ends early, and everything else."""
    rng = np.random.default_rng([batch, sequence])
    sizes = {"batch": batch, "sequence": sequence, "height": 64, "width": 96}
    feeds = {}
    for entry in model.inputs:
        shape = [sizes.get(dim, dim) for dim in entry["shape"]]
        integers = rng.integers(0, 2 if "type" in entry["name"] else 200, shape)
        feeds[entry["name"]] = (
            integers if entry["dtype"] == "int64" else rng.standard_normal(shape).astype(np.float32)
        )
    if "attention_mask" in feeds:
        feeds["attention_mask"] = np.ones((batch, sequence), np.int64)
        feeds["attention_mask"][0, sequence // 2 + 1 :] = 0
    return feeds


def follows(model: OpenedTorch, folder: Path, *sizes: tuple[int, int]) -> None:
    """The ONNX of a model has its names and gives what it gives, at every size."""
    folder.mkdir()
    session = onnxruntime.InferenceSession(model.to_onnx(folder).path, providers=["CPUExecutionProvider"])
    for mine, theirs in ((model.inputs, session.get_inputs()), (model.outputs, session.get_outputs())):
        assert [(entry["name"], entry["shape"]) for entry in mine] == [
            (one.name, one.shape) for one in theirs
        ]
    for size in sizes:
        feeds = feeds_of(model, *size)
        for wanted, got in zip(model.run(feeds).values(), session.run(None, feeds), strict=True):
            noise = np.square(wanted.astype(np.float64) - got).sum()
            assert wanted.shape == got.shape
            assert np.square(wanted.astype(np.float64)).sum() > noise * 10 ** (LEAST_SQNR_DB / 10)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """The folder with other weights."""
    weights = load_file(folder / "model.safetensors")
    weights = {key: value.clone() for key, value in weights.items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
