"""Networks with random weights, as people upload them, with data of the right form: speed does not depend on training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest

SEED = 0
ARCHITECTURE_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Untrained:
    """A network. `goal` is how many times as fast as eager PyTorch a preset shall make it, on one target at least."""

    name: str
    goal: float
    write: Callable[[Path], ModelHandle]  # into an empty folder
    data: Callable[[int], dict[str, np.ndarray]]  # samples by input, on the first axis


def images(name: str, architecture: str, size: int, goal: float) -> Untrained:
    """A network of the zoo's, uploaded as weights with its name; its data is noise."""

    def write(folder: Path) -> ModelHandle:
        import torch
        from safetensors.torch import save_file

        from workers.torch import zoo

        torch.manual_seed(SEED)
        save_file(zoo.parse(architecture).build().state_dict(), folder / ARCHITECTURE_FILE)
        declared = {"architecture": architecture}
        return ModelHandle(folder, ARCHITECTURE_FILE, "state-dict", tree_digest(folder), declared)

    def data(count: int) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(SEED).standard_normal((count, 3, size, size))
        return {"input": noise.astype(np.float32)}

    return Untrained(name, goal, write, data)


def text(name: str, config: dict[str, Any], length: int, goal: float) -> Untrained:
    """A BERT that classifies, uploaded as Transformers saves it; its data are random tokens."""

    def write(folder: Path) -> ModelHandle:
        import torch
        from safetensors.torch import save_file
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(SEED)
        network = BertForSequenceClassification(BertConfig(**config))
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        return ModelHandle(folder, "config.json", "transformers", tree_digest(folder))

    def data(count: int) -> dict[str, np.ndarray]:
        tokens = np.random.default_rng(SEED).integers(0, config["vocab_size"], (count, length))
        return {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }

    return Untrained(name, goal, write, data)


NETWORKS = (
    images("resnet18, 224×224", "resnet18", 224, 4.0),
    images("mobilenetv2, 224×224", "mobilenetv2_w1", 224, 4.0),
    text(
        "BERT, 6 layers of 256, 128 tokens",
        {
            "vocab_size": 30522,
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        128,
        3.0,
    ),
)
