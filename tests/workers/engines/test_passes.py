"""What single passes do beyond the contract."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import InvalidParams
from workers.float_types import FP16
from workers.onnx_files import graphs, save_onnx, signature_of, tree_digest
from workers.onnx_proof import open_session
from workers.passes.quantize_weights import quantize_blocks


def model_of(nodes, inputs, outputs, weights, folder, opset=18):
    """A model from float values given as {name: shape}."""
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", *values, tensors)
    return save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), folder
    )


def operators(model) -> list[str]:
    return [node.op_type for graph in graphs(model.load_onnx().graph) for node in graph.node]


def test_simplify_removes_what_has_no_effect(tmp_path, apply):
    nodes = [
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.ones(4, np.float32))),
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Mul", ["same", "two"], ["y"]),
        helper.make_node("Erf", ["x"], ["unread"]),
    ]
    model = model_of(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {}, tmp_path / "m")

    simple, context = apply("simplify", model)

    assert operators(simple) == ["Mul"]
    assert context.facts == {"nodes_before": 5, "nodes_after": 1}


def test_simplify_keeps_an_input_that_nothing_reads(tmp_path, apply):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    model = model_of(nodes, {"x": ["n", 4], "unread": [2]}, {"y": ["n", 4]}, {}, tmp_path / "m")

    assert list(signature_of(apply("simplify", model)[0].load_onnx())["inputs"]) == ["x", "unread"]


def test_fp16_halves_the_size_and_may_change_the_signature(cnn, apply):
    half, context = apply("to-fp16", cnn.model, keep_io_types=False)

    assert half.size_bytes < 0.7 * cnn.model.size_bytes
    kinds = {
        value.type.tensor_type.elem_type
        for value in (*half.load_onnx().graph.input, *half.load_onnx().graph.output)
    }
    assert kinds == {TensorProto.FLOAT16}
    assert context.facts["casts"] == 0
    open_session(half).run(None, {"images": cnn.images[:3].astype(np.float16)})


def test_fp16_blocks_by_operator_and_by_name(cnn, apply, signal):
    convolutions = [n.name for n in cnn.model.load_onnx().graph.node if n.op_type == "Conv"]
    half, context = apply("to-fp16", cnn.model, blocked_operators=["Gemm"], blocked_nodes=convolutions[:1])

    assert context.facts["kept"] == {"Gemm": 1, "Conv": 1}
    assert context.facts["half"]["Conv"] == 2
    before, after = (open_session(m).run(None, {"images": cnn.images})[0] for m in (cnn.model, half))
    assert signal(before, after) > 50
    with pytest.raises(InvalidParams):
        apply("to-fp16", cnn.model, blocked_nodes=["no such node"])


def test_fp16_leaves_no_cast_to_float_behind(tmp_path, apply):
    """A cast to fp32 in the middle, scales that Resize takes in fp32 alone, and Range, which has no fp16 form."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "last"], ["length"], name="gather", axis=0),
        helper.make_node("Cast", ["length"], ["floating"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Range", ["zero", "floating", "step"], ["positions"], name="range"),
        helper.make_node("Add", ["x", "positions"], ["placed"], name="add"),
        helper.make_node("Resize", ["placed", "", "scales"], ["y"], name="resize", mode="nearest"),
    ]
    weights = {
        "last": np.array(3, np.int64),
        "zero": np.array(0, np.float32),
        "step": np.array(1, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    model = model_of(nodes, {"x": ["n", 1, 3, 5]}, {"y": ["n", 1, 6, 10]}, weights, tmp_path / "m")

    half, context = apply("to-fp16", model)

    assert context.facts["kept"] == {"Range": 1}
    x = np.random.default_rng(0).random((2, 1, 3, 5), dtype=np.float32)
    before, after = (open_session(m).run(None, {"x": x})[0] for m in (model, half))
    np.testing.assert_allclose(after, before, rtol=2e-3)


def test_fp16_inside_control_flow_and_of_an_output_that_a_branch_reads(tmp_path, apply):
    body_value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, ["m", "w"], ["z"], name=f"{name}_{kind}")], name, [], [body_value]
        )
        for name, kind in (("then_branch", "MatMul"), ("else_branch", "Add"))
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["m"], name="relu"),
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["y"], name="if", **branches),
    ]
    weights = {"w": np.eye(4, dtype=np.float32) * 3, "zero": np.array(0, np.float32)}
    model = model_of(nodes, {"x": [4, 4]}, {"m": [4, 4], "y": [4, 4]}, weights, tmp_path / "m")

    for blocked in ([], ["MatMul"], ["Relu", "Add"]):
        half, _ = apply("to-fp16", model, blocked_operators=blocked)
        for sign in (1, -1):
            x = sign * np.random.default_rng(0).random((4, 4), dtype=np.float32)
            before, after = (open_session(m).run(None, {"x": x}) for m in (model, half))
            for expected, got in zip(before, after, strict=True):
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, expected, rtol=2e-3)


def test_numbers_beyond_half_precision_are_clamped_and_counted(tmp_path, apply):
    nodes = [helper.make_node("Div", ["x", "w"], ["y"], name="div")]
    weights = {"w": np.array([1e6, -1e6, 1e-12, 1.0], np.float32)}
    model = model_of(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights, tmp_path / "m")

    _, context = apply("to-fp16", model)

    assert (context.facts["clamped_weights"], context.facts["raised_weights"]) == (2, 1)
    assert any("65504" in text for text in context.warnings)
    np.testing.assert_array_equal(
        FP16.narrowed(np.array([np.inf, -np.inf, 0.0, 1e9, -1e-12, 0.5], np.float32)),
        np.array([np.inf, -np.inf, 0.0, 65504, -6e-8, 0.5], np.float16),
    )


def test_dynamic_leaves_convolutions_out_and_says_why(cnn, apply):
    _, context = apply("quantize-dynamic", cnn.model)

    (left,) = context.facts["left_out"]
    assert (left["operator"], left["count"]) == ("Conv", 3)
    assert "slower" in left["reason"]


def test_dynamic_takes_matmul_and_gemm(mlp, apply):
    quantized, context = apply("quantize-dynamic", mlp.model)

    assert context.facts == {"quantized": {"MatMul": 2, "Gemm": 1}, "left_out": []}
    assert operators(quantized).count("MatMulInteger") == 3
    names = [n.name for n in mlp.model.load_onnx().graph.node if n.op_type in ("MatMul", "Gemm")]
    for excluded in names:
        _, context = apply("quantize-dynamic", mlp.model, excluded_nodes=[excluded])
        assert [entry["nodes"] for entry in context.facts["left_out"]] == [[excluded]]


def test_dynamic_without_gemm_leaves_the_gemm(mlp, apply):
    _, context = apply("quantize-dynamic", mlp.model, operators=["MatMul"])

    assert context.facts["quantized"] == {"MatMul": 2}
    assert [entry["operator"] for entry in context.facts["left_out"]] == ["Gemm"]


def test_dynamic_of_nothing_warns(tmp_path, apply):
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], name="square")]
    model = model_of(nodes, {"x": [4, 4]}, {"y": [4, 4]}, {}, tmp_path / "m")

    _, context = apply("quantize-dynamic", model)

    assert "nothing was quantized" in context.warnings[0]
    assert context.facts["left_out"][0]["nodes"] == ["square"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "bound"), [(4, 1 / 14), (8, 1 / 250)])
def test_blocks_hold_the_weights_within_half_a_step(bits, bound, symmetric):
    matrix = np.random.default_rng(0).standard_normal((100, 7)).astype(np.float32)
    parts = quantize_blocks(matrix, bits, 32, symmetric)
    raw = parts["blocks"].reshape(7, 4, -1)
    codes = raw if bits == 8 else np.stack([raw & 15, raw >> 4], axis=-1).reshape(7, 4, 32)
    middle = 2 ** (bits - 1)
    if symmetric:
        zeros = np.full((7, 4), middle)
    else:
        packed = parts["zeros"]
        zeros = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(7, -1)[:, :4]
    values = (codes.astype(np.float32) - zeros[..., None]) * parts["scales"].reshape(7, 4, 1)
    restored = values.reshape(7, 128)[:, :100].T

    spread = matrix.max() - matrix.min()
    assert np.abs(restored - matrix).max() <= spread * bound


def test_weights_in_blocks_shrink_and_share(tmp_path, apply):
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Gemm", ["a", "w", "b"], ["c"], name="second", transB=1),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="third"),
    ]
    weights = {"w": weight, "b": np.ones(64, np.float32)}
    model = model_of(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, weights, tmp_path / "m")

    quantized, context = apply("quantize-weights", model, bits=8, symmetric=True)

    assert context.facts["quantized"] == {"MatMul": 2, "Gemm": 1}
    assert operators(quantized) == ["MatMulNBits", "MatMulNBits", "Add", "MatMulNBits"]
    blocks = [t for t in quantized.load_onnx().graph.initializer if t.data_type == TensorProto.UINT8]
    assert len(blocks) == 2, "once as it is, once transposed"
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    before, after = (open_session(m).run(None, {"x": x})[0] for m in (model, quantized))
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_weights_in_branches_of_the_same_name_are_not_mixed_up(tmp_path, apply):
    rng = np.random.default_rng(0)
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["z"], name=f"{name}_product")],
            name, [], [out],
            [numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), "w")],
        )
        for name in ("then_branch", "else_branch")
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["y"], name="if", **branches),
    ]
    model = model_of(nodes, {"x": [2, 64]}, {"y": [2, 64]}, {"zero": np.array(0, np.float32)}, tmp_path / "m")

    for name, params in (("quantize-weights", {"bits": 8}), ("quantize-dynamic", {}), ("to-fp16", {})):
        changed, context = apply(name, model, **params)
        if name != "to-fp16":
            assert context.facts["quantized"] == {"MatMul": 2}
        for sign in (1, -1):
            x = sign * rng.random((2, 64), dtype=np.float32)
            before, after = (open_session(m).run(None, {"x": x})[0] for m in (model, changed))
            assert np.abs(after - before).max() < 0.05 * np.abs(before).max(), name


def test_small_and_odd_products_are_left_with_a_reason(tmp_path, apply):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="small"),
        helper.make_node("Gemm", ["a", "v"], ["y"], name="scaled", alpha=0.5),
    ]
    weights = {"w": np.eye(8, dtype=np.float32), "v": np.ones((8, 2048), np.float32)}
    model = model_of(nodes, {"x": ["n", 8]}, {"y": ["n", 2048]}, weights, tmp_path / "m")

    _, context = apply("quantize-weights", model)

    reasons = {entry["nodes"][0]: entry["reason"] for entry in context.facts["left_out"]}
    assert "fewer than 1024" in reasons["small"]
    assert "alpha" in reasons["scaled"]


def test_saved_models_have_the_digest_that_storage_gives(tmp_path, cnn):
    from app.storage import DiskStorage

    storage = DiskStorage(tmp_path / "blobs")
    assert storage.put_tree(cnn.model.root).digest == cnn.model.digest == tree_digest(cnn.model.root)
    apart = save_onnx(cnn.model.load_onnx(), tmp_path / "apart", limit_bytes=1)
    assert storage.put_tree(apart.root).digest == apart.digest
    assert sorted(p.name for p in apart.root.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(apart.path))


def test_simplify_takes_models_of_old_opsets(tmp_path, apply):
    nodes = [helper.make_node("Identity", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    old = model_of(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {}, tmp_path / "m", opset=6)
    simplified, _ = apply("simplify", old)
    assert operators(simplified) == ["Relu"]


def test_simplify_lets_weights_of_old_models_be_inputs_no_more(tmp_path, apply):
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "old", [ends[0], listed], ends[1:], [weight])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    simplified, _ = apply("simplify", save_onnx(old, tmp_path / "m"))
    assert [value.name for value in simplified.load_onnx().graph.input] == ["x"]
