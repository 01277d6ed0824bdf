"""Networks to profile: random weights, none of them zero or equal, as those of trained ones are."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers import runtimes
from workers.conversion import open_model
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, tree_digest
from workers.profiling.profilers import registry
from workers.profiling.recorded import Plan, Recorded
from workers.runtimes.base import Engine, Feeds
from workers.torch.program import TorchModel, export, save_program

WIDTH = 256  # of the recurrent network
STEPS = 6  # of its loop
QUICK = Plan(seconds=0.5, warm_up_seconds=0.1, least_runs=5, most_runs=100)


@dataclass(frozen=True)
class Subject:
    """A network as it was uploaded, as ONNX, and inputs for it."""

    original: ModelHandle
    onnx: ModelHandle
    feeds: list[Feeds]


@dataclass(frozen=True)
class Seen:
    """An engine and what its profiler saw."""

    engine: Engine
    params: Params
    recorded: Recorded


def look(
    name: str, model: ModelHandle, feeds: Sequence[Feeds], folder: Path, plan: Plan = QUICK, **params: Any
) -> Seen:
    """Build an engine for a runtime, and profile it."""
    chosen = RUNTIMES[name].params(**{"threads": 1, **params})
    out, seen = folder / "engine", folder / "seen"
    out.mkdir(parents=True)
    seen.mkdir()
    engine = runtimes.registry.alone(name).build(model, chosen, out)
    return Seen(engine, chosen, registry.alone(name).profile(engine, chosen, feeds, plan, seen))


def resnet(folder: Path) -> Subject:
    """ResNet-18 as a program of PyTorch."""
    from pytorchcv.models.resnet import resnet18

    inputs = ({"name": "images", "dtype": "float32", "shape": [1, 3, 224, 224]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": [1, 1000]},)
    feeds = [
        {"images": image[None]} for image in np.random.default_rng(0).random((3, 3, 224, 224), np.float32)
    ]
    return _exported(resnet18(), inputs, outputs, feeds, folder)


def bert(folder: Path) -> Subject:
    """A BERT of two layers of width 128, as a program of PyTorch."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    network = _Named(BertModel(BertConfig(vocab_size=1000, **sizes), add_pooling_layer=False))
    inputs = tuple({"name": name, "dtype": "int64", "shape": [1, 64]} for name in ("ids", "mask"))
    outputs = ({"name": "hidden", "dtype": "float32", "shape": [1, 64, 128]},)
    random = np.random.default_rng(0)
    feeds = [{"ids": random.integers(0, 1000, (1, 64)), "mask": np.ones((1, 64), np.int64)} for _ in range(3)]
    return _exported(network, inputs, outputs, feeds, folder)


class _Named(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(ids, mask).last_hidden_state


def _exported(
    network: torch.nn.Module, inputs: Any, outputs: Any, feeds: list[Feeds], folder: Path
) -> Subject:
    torch.manual_seed(0)
    for name, values in network.state_dict().items():
        if values.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.05
            values.uniform_(low, low + (1.0 if low > 0 else 0.1))
    (folder / "program").mkdir(parents=True)
    (folder / "onnx").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        save_program(
            export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, folder / "program/model.pt2"
        )
        original = ModelHandle(
            folder / "program", "model.pt2", "torch-export", tree_digest(folder / "program")
        )
        return Subject(original, open_model(original).to_onnx(folder / "onnx"), feeds)


def recurrent(folder: Path) -> Subject:
    """An LSTM, then a loop whose body has a branch; as ONNX."""
    random = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(
            random.standard_normal(shape, np.float32) / np.sqrt(WIDTH, dtype="f"), name
        )

    def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] = (1, WIDTH)) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    node = helper.make_node
    positive = helper.make_graph(
        [node("MatMul", ["bent", "w"], ["turned"], "product"), node("Tanh", ["turned"], ["yes"], "bend")],
        "positive", [], [value("yes")],
    )  # fmt: skip
    negative = helper.make_graph([node("Neg", ["bent"], ["no"], "negate")], "negative", [], [value("no")])
    body = helper.make_graph(
        [
            node("MatMul", ["state", "v"], ["moved"], "product"),
            node("Tanh", ["moved"], ["bent"], "step_bend"),
            node("ReduceSum", ["bent"], ["total"], "step_sum", keepdims=0),
            node("Greater", ["total", "zero"], ["up"], "step_compare"),
            node("If", ["up"], ["next"], "step_branch", then_branch=positive, else_branch=negative),
            node("Identity", ["going"], ["on"], "step_on"),
        ],
        "body",
        [value("number", TensorProto.INT64, ()), value("going", TensorProto.BOOL, ()), value("state")],
        [value("on", TensorProto.BOOL, ()), value("next")],
    )
    graph = helper.make_graph(
        [
            node("LSTM", ["rows", "W", "R"], ["", "last"], "lstm", hidden_size=WIDTH),
            node("Squeeze", ["last", "first"], ["flat"], "squeeze"),
            node("Loop", ["steps", "true", "flat"], ["found"], "loop", body=body),
        ],
        "g",
        [value("rows", shape=(16, 1, WIDTH))],
        [value("found")],
        [
            constant("W", 1, 4 * WIDTH, WIDTH), constant("R", 1, 4 * WIDTH, WIDTH), constant("v", WIDTH, WIDTH),
            constant("w", WIDTH, WIDTH), numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.array(STEPS), "steps"), numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.array([0]), "first"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feeds = [{"rows": rows} for rows in random.standard_normal((4, 16, 1, WIDTH), np.float32)]
    handle = save_onnx(model, folder / "onnx")
    return Subject(handle, handle, feeds)
