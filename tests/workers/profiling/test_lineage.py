"""Which nodes of a model an engine's nodes compute: engines that ONNX Runtime really built."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from tests.workers.engines.networks import ArraySamples
from workers import passes, runtimes
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.profiling.lineage import Graph, Operation, lineage
from workers.profiling.onnx_lineage import onnx_graph

HEAVY = frozenset(("Conv", "MatMul", "Gemm", "LSTM"))
# what an engine may compute them by
KINDS = {
    "Conv": {"Conv", "FusedConv", "QLinearConv"},
    "MatMul": {"MatMul", "FusedMatMul", "Gemm", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"},
    "Gemm": {"Gemm", "FusedGemm", "QGemm"},
    "LSTM": {"LSTM"},
}  # fmt: skip


def graph_of(model: ModelHandle) -> Graph:
    return onnx_graph(model.load_onnx(weights=False))


def engine(model: ModelHandle, folder, level: str = "all") -> Graph:
    folder.mkdir()
    params = RUNTIMES["onnxruntime-cpu"].params(threads=1, graph_optimization=level)
    built = runtimes.registry.alone("onnxruntime-cpu").build(model, params, folder)
    return onnx_graph(onnx.load(str(built.path), load_external_data=False))


def after(name: str, model: ModelHandle, feeds, folder) -> ModelHandle:
    folder.mkdir()
    data = ArraySamples({key: np.concatenate([one[key] for one in feeds]) for key in feeds[0]})
    samples = {"calibration": data} if "calibration" in PASSES[name].inputs else {}
    return passes.registry.get(name)(model, PASSES[name].params(), PassContext(out=folder, samples=samples))


def check_heavy(made: Graph, base: Graph) -> None:
    """Every heavy node is computed by one node of the engine, and by one of its kind."""
    kinds = {one.label: one.operator for one in made.all()}
    owners: dict[str, list[str]] = {}
    for label, sources in lineage(made, base).items():
        for source in sources:
            owners.setdefault(source, []).append(label)
    for one in base.all():
        if one.operator in HEAVY:
            assert len(owners.get(one.label, [])) == 1, one.label
            assert kinds[owners[one.label][0]] in KINDS[one.operator], one.label


@pytest.mark.parametrize("level", ["none", "basic", "extended", "all"])
@pytest.mark.parametrize("name", ["resnet", "bert", "recurrent"])
def test_heavy_nodes_stand_in_one_row(name, level, request, tmp_path):
    model = request.getfixturevalue(name).onnx
    check_heavy(engine(model, tmp_path / "engine", level), graph_of(model))


@pytest.mark.parametrize(
    "pass_name", ["quantize-static", "quantize-dynamic", "quantize-weights", "to-fp16", "simplify"]
)
def test_heavy_nodes_of_what_passes_made_stand_in_one_row(pass_name, bert, tmp_path):
    model = after(pass_name, bert.onnx, bert.feeds, tmp_path / "pass")
    check_heavy(engine(model, tmp_path / "engine"), graph_of(model))


def test_a_fused_node_computes_what_lies_between(resnet, tmp_path):
    base = graph_of(resnet.onnx)
    kinds = {one.label: one.operator for one in base.all()}
    made = engine(resnet.onnx, tmp_path / "engine")

    groups = Counter(
        tuple(kinds[source] for source in sources) for sources in lineage(made, base).values() if sources
    )
    # 8 blocks: a convolution with Relu, one with the addition behind it and Relu; the first; three that match channels
    assert groups[("Conv", "Relu")] == 9
    assert groups[("Conv", "Add", "Relu")] == 8
    assert groups[("Conv",)] == 3
    moved = [label for label, sources in lineage(made, base).items() if not sources]
    assert [label.partition("_")[0] for label in moved] == ["ReorderOutput"]


def test_attention_that_was_fused_computes_its_products(bert, tmp_path):
    fused = graph_of(after("fuse-transformer", bert.onnx, bert.feeds, tmp_path / "pass"))
    base = graph_of(bert.onnx)
    kinds = {one.label: one.operator for one in base.all()}
    made = {one.label: one.operator for one in fused.all()}

    found = {
        label: Counter(kinds[source] for source in sources)
        for label, sources in lineage(fused, base).items()
        if made[label] == "MultiHeadAttention"
    }
    assert len(found) == 2
    assert all(counts["MatMul"] == 2 and counts["Softmax"] == 1 for counts in found.values())


def test_a_node_between_two_of_a_runtime_is_claimed_once():
    base = Graph([
        Operation("conv", "Conv", ("conv",), ("x", "w"), ("a",)),
        Operation("relu", "Relu", ("relu",), ("a",), ("b",)),
        Operation("pool", "MaxPool", ("pool",), ("b",), ("y",)),
    ], frozenset("w"))  # fmt: skip
    made = Graph([
        Operation("kernel", "FusedConv", (), ("x", "w"), ("hidden",)),
        Operation("layout", "Reorder", (), ("hidden",), ("turned",)),
        Operation("pooled", "MaxPool", (), ("turned",), ("y",)),
    ], frozenset("w"))  # fmt: skip

    assert lineage(made, base) == {"kernel": ("conv", "relu"), "layout": (), "pooled": ("pool",)}


def test_constants_are_nobodys():
    base = Graph([
        Operation("turn", "Transpose", ("turn",), ("w",), ("wt",)),
        Operation("product", "MatMul", ("product",), ("x", "wt"), ("y",)),
    ], frozenset("w"))  # fmt: skip
    made = Graph([Operation("product", "Gemm", ("product",), ("x", "wt"), ("y",))], frozenset(("wt",)))

    assert lineage(made, base) == {"product": ("product",)}


def test_a_branch_that_is_always_taken_keeps_the_names_of_its_nodes(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["e"], "raise"), helper.make_node("Log", ["e"], ["r"], "lower")],
        "taken", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"], "turn")], "left", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, [4])]
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["yes"], "yes", value=helper.make_tensor("v", TensorProto.BOOL, [], [True])),
            helper.make_node("If", ["yes"], ["z"], "choose", then_branch=inner, else_branch=other),
            helper.make_node("Sqrt", ["z"], ["y"], "root"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    model = save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "model",
    )
    made = engine(model, tmp_path / "engine")

    assert not [one for one in made.all() if one.operator == "If"]
    found = {source for sources in lineage(made, graph_of(model)).values() for source in sources}
    assert found >= {"raise", "lower", "root"}
    assert "turn" not in found
