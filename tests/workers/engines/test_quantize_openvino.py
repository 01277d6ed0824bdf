"""The pass `quantize-openvino` beyond the contract: what it excludes, what it refuses, how exact it is."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from app.errors import IncompatibleRecipe, InvalidDataset, InvalidModel, InvalidParams, SignatureMismatch
from tests.workers.engines.networks import ArraySamples, answers, masked_attention
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.openvino_library import openvino


def ranges(model) -> list[str]:
    """The tensors that got an 8-bit range."""
    graph = openvino.Core().read_model(str(model.path))
    return [node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "FakeQuantize"]


def test_a_trained_network_keeps_its_answers_in_int8_alone(cnn, apply, signal):
    quantized, context = apply("quantize-openvino", cnn.model, cnn.train)

    before, after = (answers(model, {"images": cnn.images})["logits"] for model in (cnn.model, quantized))
    assert np.mean(before.argmax(1) == after.argmax(1)) > 0.98
    assert signal(before, after) > 20
    assert context.facts["quantized"] == {"Convolution": 2, "GroupConvolution": 1, "MatMul": 1}
    assert context.facts["left_out"] == []
    assert context.facts["fused_share"] == 1.0
    assert context.facts["calibration"]["synthetic"] is False
    assert context.facts["calibration"]["tensors"] == len(ranges(quantized))
    assert quantized.size_bytes > 0
    weights = openvino.Core().read_model(str(quantized.path))
    assert {"i8"} <= {
        node.get_element_type().to_string()
        for node in weights.get_ops()
        if node.get_type_name() == "Constant"
    }


def test_excluded_nodes_stay_in_floating_point(cnn, apply):
    first = next(node for node in cnn.model.load_onnx().graph.node if node.op_type == "Conv")
    _, context = apply("quantize-openvino", cnn.model, cnn.train, excluded_nodes=[first.name])

    assert context.facts["quantized"] == {"Convolution": 1, "GroupConvolution": 1, "MatMul": 1}
    (left,) = context.facts["left_out"]
    assert left["reason"] == "excluded"
    assert left["nodes"][0].startswith(first.name)
    assert context.facts["fused_share"] == 0.75


def test_excluded_operators_are_those_of_onnx(cnn, apply):
    quantized, context = apply("quantize-openvino", cnn.model, cnn.train, excluded_operators=["Conv"])

    assert context.facts["quantized"] == {"MatMul": 1}
    assert sum(entry["count"] for entry in context.facts["left_out"]) == 3
    assert quantized.format == "openvino"


def test_an_unknown_exclusion_is_a_mistake(cnn, apply):
    with pytest.raises(InvalidParams) as refusal:
        apply("quantize-openvino", cnn.model, cnn.train, excluded_nodes=["no_such_node"])
    assert refusal.value.param == "excluded_nodes"


def test_nothing_to_quantize_is_said(cnn, apply, tmp_path: Path):
    with pytest.raises(IncompatibleRecipe):
        apply("quantize-openvino", cnn.model, cnn.train, excluded_operators=[
            node.op_type for node in cnn.model.load_onnx().graph.node
        ])  # fmt: skip


def test_calibration_data_must_be_finite_and_fit(cnn, apply):
    images = cnn.images[:8].copy()
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(InvalidDataset):
        apply("quantize-openvino", cnn.model, ArraySamples({"images": images}))
    with pytest.raises(SignatureMismatch):
        apply("quantize-openvino", cnn.model, ArraySamples({"images": images[..., :4]}))
    with pytest.raises(InvalidDataset):
        apply("quantize-openvino", cnn.model, ArraySamples({"images": images[:0]}))


def test_only_so_many_samples_are_read(cnn, apply):
    poisoned = cnn.images[:8].copy()
    poisoned[4:] = np.nan
    _, context = apply("quantize-openvino", cnn.model, ArraySamples({"images": poisoned}), samples=4)

    assert context.facts["calibration"]["samples"] == 4


def test_a_fixed_batch_gets_that_many_samples_at_once(cnn, apply, tmp_path: Path):
    proto = cnn.model.load_onnx()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del proto.graph.value_info[:]
    fixed = save_onnx(proto, tmp_path / "fixed")
    quantized, context = apply("quantize-openvino", fixed, cnn.train, samples=10)

    assert context.facts["calibration"]["samples"] == 10
    assert answers(quantized, {"images": cnn.images[:4]})["logits"].shape == (4, 10)


def test_the_presets_differ_and_mixed_is_asymmetric(mlp, apply, signal):
    before = answers(mlp.model, {"images": mlp.images})["logits"]
    digests = set()
    for params in ({"preset": "performance"}, {"preset": "mixed"}, {"fast_bias_correction": False}):
        quantized, _ = apply("quantize-openvino", mlp.model, mlp.train, samples=64, **params)
        digests.add(quantized.digest)
        assert signal(before, answers(quantized, {"images": mlp.images})["logits"]) > 20
    assert len(digests) == 3


def pooled_and_split(folder: Path) -> ModelHandle:
    """Two convolutions with a pooling and a split between them: [n, 2, 8, 8] to [n, 3, 4, 4]."""
    random = np.random.default_rng(0)
    shapes = {"first": (4, 2, 3, 3), "second": (3, 2, 3, 3)}
    weights = [
        numpy_helper.from_array(random.standard_normal(shape, dtype=np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Split", ["p"], ["upper", "lower"], "split", axis=1, num_outputs=2),
        helper.make_node("Conv", ["lower", "second"], ["y"], "last", pads=[1] * 4),
    ]
    (x, y) = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
        for name, shape in (("x", (2, 8, 8)), ("y", (3, 4, 4)))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder
    )


def test_a_range_before_nodes_of_several_outputs_holds_behind_them(apply, signal, tmp_path: Path):
    model = pooled_and_split(tmp_path / "m")
    data = {"x": np.random.default_rng(1).standard_normal((16, 2, 8, 8), dtype=np.float32)}
    quantized, context = apply("quantize-openvino", model, ArraySamples(data))

    assert context.facts["quantized"] == {"Convolution": 2}
    assert context.facts["left_out"] == []
    assert signal(answers(model, data)["y"], answers(quantized, data)["y"]) > 20


def test_what_nncf_raises_of_its_own_is_told_with_a_way_on(apply, tmp_path: Path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("bias_id")  # none of NNCF's own errors, as its faults are

    monkeypatch.setattr("nncf.quantize", broken)
    data = ArraySamples({"x": np.zeros((4, 2, 8, 8), np.float32)})
    with pytest.raises(InvalidModel, match="KeyError: 'bias_id'") as refusal:
        apply("quantize-openvino", pooled_and_split(tmp_path / "m"), data)
    assert refusal.value.stage == "quantize-openvino"
    assert "quantize-static" in (refusal.value.hint or "")


class Attention(torch.nn.Module):
    """An embedding of images' rows, one encoder layer over a free number of rows, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(8, 32)
        self.queries, self.keys, self.values = (torch.nn.Linear(32, 32) for _ in range(3))
        self.norm = torch.nn.LayerNorm(32)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(rows)
        weights = torch.softmax(self.queries(hidden) @ self.keys(hidden).transpose(1, 2) / 5.66, dim=-1)
        return self.head(self.norm(hidden + weights @ self.values(hidden)).mean(dim=1))


def test_transformers_keep_their_softmax_and_free_dimensions(apply, signal, tmp_path: Path):
    torch.manual_seed(0)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("rows")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Attention().eval(), (torch.zeros(2, 6, 8),), dynamo=True, verbose=False,
            input_names=["rows"], output_names=["logits"], dynamic_shapes=(free,),
        )  # fmt: skip
    model = save_onnx(program.model_proto, tmp_path / "attention")
    rows = np.random.default_rng(0).standard_normal((64, 6, 8)).astype(np.float32)
    quantized, context = apply(
        "quantize-openvino", model, ArraySamples({"rows": rows}), model_type="transformer",
        smooth_quant_alpha=0.5,
    )  # fmt: skip

    assert context.facts["quantized"]["MatMul"] >= 5
    for shape in ((64, 9, 8), (5, 12, 8)):
        feeds = {"rows": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        before, after = answers(model, feeds)["logits"], answers(quantized, feeds)["logits"]
        assert after.shape == (shape[0], 10)
        assert signal(before, after) > 20


def test_a_mask_leaves_attention_its_scores(apply, signal, tmp_path: Path):
    model = masked_attention(tmp_path / "m", float(np.finfo(np.float32).min))
    random = np.random.default_rng(1)
    data = {
        "rows": random.standard_normal((32, 6, 16)).astype(np.float32),
        "kept": np.arange(6) < random.integers(1, 7, size=(32, 1)),
    }
    quantized, context = apply("quantize-openvino", model, ArraySamples(data))

    assert context.facts["quantized"] == {"MatMul": 5}
    # NNCF takes the mean of the samples' extremes: coarser than quantize-static
    assert signal(answers(model, data)["read"], answers(quantized, data)["read"]) > 15


def test_a_model_of_nothing_that_nncf_knows_is_refused(apply, tmp_path: Path):
    value = [helper.make_tensor_value_info(name, TensorProto.INT64, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)

    with pytest.raises(IncompatibleRecipe) as refusal:
        apply(
            "quantize-openvino",
            save_onnx(model, tmp_path / "m"),
            ArraySamples({"x": np.zeros((4, 2), np.int64)}),
        )
    assert refusal.value.hint
