"""What `set-shapes` does to shapes, and what it refuses."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from app.catalog.pass_params.graph import SetShapesParams
from app.errors import InvalidParams
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_proof import open_session


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def saved(nodes, inputs, outputs, weights, folder, opset=18):
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return save_onnx(model, folder)


@pytest.fixture
def flattening(tmp_path):
    """Two inputs of the same free batch, a shape computation, an output whose dimension is an expression."""
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"], name="add"),
        helper.make_node("Shape", ["sum"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "first"], ["rows"], name="rows"),
        helper.make_node("Gather", ["shape", "second"], ["columns"], name="columns"),
        helper.make_node("Mul", ["rows", "columns"], ["count"], name="count"),
        helper.make_node("Reshape", ["sum", "count"], ["flat"], name="flatten"),
        helper.make_node("Concat", ["flat", "flat"], ["z"], name="twice", axis=0),
    ]
    inputs = [value("x", ["batch", "width"]), value("y", ["batch", None])]
    indices = {"first": np.array([0]), "second": np.array([1])}
    return saved(nodes, inputs, [value("z", ["2*batch*width"])], indices, tmp_path / "m")


def test_a_fixed_batch_reaches_every_input_output_and_value(cnn, apply):
    (batch, *rest), *_ = [shape for _, shape in signature_of(cnn.model.load_onnx())["inputs"].values()]
    fixed, context = apply("set-shapes", cnn.model, dimensions={batch: 4})

    proto = fixed.load_onnx()
    assert signature_of(proto) == {
        "inputs": {"images": (TensorProto.FLOAT, (4, *rest))},
        "outputs": {"logits": (TensorProto.FLOAT, (4, 10))},
    }
    dims = [dim for info in proto.graph.value_info for dim in info.type.tensor_type.shape.dim]
    assert dims
    assert all(dim.dim_value > 0 for dim in dims), "nothing inside is free any more"
    assert context.facts == {"inputs": {"images": [4, *rest]}, "outputs": {"logits": [4, 10]}, "free": []}
    images = cnn.images[:4]
    before, after = (open_session(m).run(None, {"images": images})[0] for m in (cnn.model, fixed))
    np.testing.assert_array_equal(after, before)


def test_what_becomes_constant_is_folded_afterwards(flattening, apply):
    fixed, _ = apply("set-shapes", flattening, dimensions={"batch": 2, "width": 3}, inputs={"y": [None, 3]})
    assert signature_of(fixed.load_onnx())["outputs"]["z"][1] == (12,), "the expression became a number"

    folded, _ = apply("simplify", fixed)
    assert [node.op_type for node in folded.load_onnx().graph.node] == ["Add", "Reshape", "Concat"]


def test_names_are_given_and_changed(flattening, apply):
    named, context = apply(
        "set-shapes", flattening, dimensions={"batch": "rows"}, inputs={"y": [None, "width"]}
    )

    shapes = {name: shape for name, (_, shape) in signature_of(named.load_onnx())["inputs"].items()}
    assert shapes == {"x": ("rows", "width"), "y": ("rows", "width")}
    assert context.facts["free"] == ["rows", "width"]
    assert signature_of(named.load_onnx())["outputs"]["z"][1] == (None,), "no stale name"


def test_stale_shapes_inside_are_removed(tmp_path, apply):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Neg", ["r"], ["y"], name="neg"),
    ]
    model = saved(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], {}, tmp_path / "m")
    proto = model.load_onnx()
    proto.graph.value_info.append(value("r", [7, 4]))
    model = save_onnx(proto, tmp_path / "stale")

    fixed, context = apply("set-shapes", model, dimensions={"n": 2})

    (inside,) = fixed.load_onnx().graph.value_info
    assert [dim.dim_value for dim in inside.type.tensor_type.shape.dim] == [2, 4]
    assert context.warnings == []


def test_shapes_inside_branches_are_inferred_too(tmp_path, apply):
    branches = {
        name: helper.make_graph(
            [
                helper.make_node(kind, ["x"], [f"{name}_a"], name=f"{name}_first"),
                helper.make_node("Neg", [f"{name}_a"], [f"{name}_b"], name=f"{name}_last"),
            ],
            name,
            [],
            [value(f"{name}_b", ["n", 2])],
        )
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Abs"))
    }
    inputs = [value("x", ["n", 2]), value("c", [], TensorProto.BOOL)]
    nodes = [helper.make_node("If", ["c"], ["y"], name="if", **branches)]
    model = saved(nodes, inputs, [value("y", ["n", 2])], {}, tmp_path / "m")

    fixed, _ = apply("set-shapes", model, dimensions={"n": 3})

    for attribute in fixed.load_onnx().graph.node[0].attribute:
        for info in (*attribute.g.value_info, *attribute.g.output):
            assert [dim.dim_value for dim in info.type.tensor_type.shape.dim] == [3, 2]
    assert open_session(fixed).run(None, {"x": np.ones((3, 2), np.float32), "c": np.array(True)})[
        0
    ].shape == (3, 2)


@pytest.mark.parametrize(
    ("params", "param", "told"),
    [
        ({"dimensions": {"bach": 1}}, "dimensions.bach", ["'bach'", "batch"]),
        ({"inputs": {"z": [1, 2]}}, "inputs.z", ["'z'", "x [batch, width]"]),
        ({"inputs": {"x": [1]}}, "inputs.x", ["2 dimensions", "1 were given"]),
        ({"dimensions": {"batch": 1}, "inputs": {"y": [2, None]}}, "inputs.y[0]", ["'y'", "'batch'", "1"]),
        ({"inputs": {"x": [1, None], "y": [2, None]}}, "inputs.y[0]", ["dimension 0", "'y'", "'batch'"]),
    ],
    ids=["unknown-dimension", "unknown-input", "rank", "contradicts-name", "contradicts-input"],
)
def test_what_does_not_fit_is_refused_by_name(flattening, apply, params, param, told):
    with pytest.raises(InvalidParams) as refusal:
        apply("set-shapes", flattening, **params)
    assert refusal.value.param == param
    for text in told:
        assert text in f"{refusal.value.detail} {refusal.value.hint}"


def test_a_fixed_size_is_not_changed(cnn, apply):
    with pytest.raises(InvalidParams) as refusal:
        apply("set-shapes", cnn.model, inputs={"images": [None, 3, 8, 8]})
    assert refusal.value.param == "inputs.images[1]"
    assert "fixed at 1" in refusal.value.detail


def test_sizes_that_the_graph_cannot_join_name_the_node(tmp_path, apply):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    weights = {"w": np.ones((4, 2), np.float32)}
    model = saved(nodes, [value("x", ["n", "k"])], [value("y", ["n", 2])], weights, tmp_path / "m")

    with pytest.raises(InvalidParams) as refusal:
        apply("set-shapes", model, dimensions={"k": 5})
    assert "product" in f"{refusal.value.detail}{refusal.value.node}"
    assert apply("set-shapes", model, dimensions={"k": 4})[1].facts["inputs"] == {"x": ["n", 4]}


def test_a_size_that_only_a_run_can_refute_is_refused(tmp_path, apply):
    """Positions are read from a table of eight: inference sees nothing wrong with sixteen."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "one"], ["length"], name="length"),
        helper.make_node("Range", ["zero", "length", "one"], ["positions"], name="positions"),
        helper.make_node("Gather", ["table", "positions"], ["embedded"], name="lookup"),
        helper.make_node("Mul", ["x", "embedded"], ["y"], name="scale"),
    ]
    weights = {"one": np.array(1), "zero": np.array(0), "table": np.ones(8, np.float32)}
    shapes = [value("x", ["n", "length"])], [value("y", ["n", "length"])]
    model = saved(nodes, *shapes, weights, tmp_path / "m")

    with pytest.raises(InvalidParams) as refusal:
        apply("set-shapes", model, dimensions={"length": 16})
    assert refusal.value.node == "lookup"
    assert apply("set-shapes", model, dimensions={"length": 8})[1].facts["free"] == ["n"]


def test_quantized_models_are_taken(cnn, simplified, apply):
    quantized, _ = apply("quantize-static", simplified, cnn.train)
    fixed, context = apply("set-shapes", quantized, inputs={"images": [1, 1, 8, 8]})

    assert context.warnings == []
    before, after = (open_session(m).run(None, {"images": cnn.images[:1]})[0] for m in (quantized, fixed))
    np.testing.assert_array_equal(after, before)
    onnx.checker.check_model(str(fixed.path), full_check=True)


@pytest.mark.parametrize(
    "given",
    [{}, {"dimensions": {"n": 0}}, {"dimensions": {"n": True}}, {"inputs": {"x": ["2*n"]}}],
    ids=["nothing", "zero", "boolean", "expression"],
)
def test_what_is_no_dimension_is_no_parameter(given):
    with pytest.raises(ValidationError):
        SetShapesParams.model_validate(given)
