"""What the conversion promises beside the numbers: layers, shared weights, buffers, training, refusals."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from app.errors import UnsupportedOperator
from tests.workers.onnx_to_torch.exports import in_onnxruntime, run
from workers.onnx_to_torch.convert import to_module

RANDOM = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def model(nodes, inputs, outputs, opset: int = 21, functions=(), **constants: np.ndarray) -> onnx.ModelProto:
    """A model of nodes given as text (`y = Relu(x)`); inputs and outputs as (name, type, shape)."""
    parsed = [node if isinstance(node, onnx.NodeProto) else onnx.parser.parse_node(node) for node in nodes]
    graph = helper.make_graph(
        parsed,
        "g",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid("own", 1) for _ in functions[:1])]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)
    onnx.checker.check_model(made)
    return made


def floats(name: str, *shape) -> tuple:
    return name, TensorProto.FLOAT, list(shape)


def same(proto: onnx.ModelProto, *inputs: np.ndarray) -> nn.Module:
    """The module, which gives what ONNX Runtime gives."""
    module = to_module(proto)
    for got, wanted in zip(run(module, list(inputs)), in_onnxruntime(proto, list(inputs)), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)
    return module


def layers(module: nn.Module, kind: type) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kind)]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ("pads = [0, 1, 2, 3]", 9),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', 8),
        ('auto_pad = "SAME_LOWER", strides = [2, 3]', 7),
        ('auto_pad = "VALID", dilations = [2, 1]', 9),
        ("pads = [1, 2, 1, 2], group = 2", 6),
    ],
)
def test_a_convolution_is_a_layer_whatever_its_pads(settings, size):
    groups = 2 if "group" in settings else 1
    proto = model(
        [f"y = Conv<{settings}>(x, w, b)"],
        [floats("x", "n", 4, "h", "w")], [floats("y", "n", 6, None, None)],
        w=weight(6, 4 // groups, 3, 3), b=weight(6),
    )  # fmt: skip
    module = same(proto, weight(2, 4, size, size + 1))
    assert len(layers(module, nn.Conv2d)) == 1


@pytest.mark.parametrize(
    "settings",
    [
        "strides = [2], pads = [1, 2]",
        "strides = [3], output_shape = [17]",
        "strides = [2], output_padding = [1]",
    ],
)
def test_a_transposed_convolution_is_a_layer(settings):
    proto = model(
        [f"y = ConvTranspose<{settings}>(x, w, b)"],
        [floats("x", "n", 3, 6)], [floats("y", "n", 5, None)], w=weight(3, 5, 3), b=weight(5),
    )  # fmt: skip
    assert len(layers(same(proto, weight(2, 3, 6)), nn.ConvTranspose1d)) == 1


def test_a_product_and_the_bias_behind_it_are_one_linear_layer():
    proto = model(
        ["p = MatMul(x, w)", "y = Add(b, p)"],
        [floats("x", "n", "t", 4)], [floats("y", "n", "t", 3)], w=weight(4, 3), b=weight(3),
    )  # fmt: skip
    (layer,) = layers(same(proto, weight(2, 5, 4)), nn.Linear)
    assert layer.weight.shape == (3, 4)
    assert layer.bias is not None


def test_a_table_that_is_the_last_layer_too_stays_one_parameter():
    proto = model(
        ["h = Gather(table, i)", "t = Transpose<perm = [1, 0]>(table)", "y = MatMul(h, t)"],
        [("i", TensorProto.INT64, ["n", 3])], [floats("y", "n", 3, 7)], table=weight(7, 4),
    )  # fmt: skip
    module = same(proto, np.array([[0, 6, -1]]))
    assert [tuple(one.shape) for one in module.parameters()] == [(7, 4)]
    assert layers(module, nn.Embedding)[0].weight is layers(module, nn.Linear)[0].weight


@pytest.mark.parametrize("renamed", [False, True], ids=["one-name", "two-names"])
def test_a_bias_of_zeros_that_exporters_stored_once_is_each_layers_own(renamed):
    named = ["c = Identity(b)"] if renamed else []
    second = "c" if renamed else "b"
    proto = model(
        [*named, "h = Gemm<transB = 1>(x, v, b)", f"y = Gemm<transB = 1>(h, w, {second})"],
        [floats("x", "n", 4)], [floats("y", "n", 4)],
        v=weight(4, 4), w=weight(4, 4), b=np.zeros(4, np.float32),
    )  # fmt: skip
    first, second = layers(same(proto, weight(2, 4)), nn.Linear)
    assert first.bias.data_ptr() != second.bias.data_ptr()


def test_a_trained_bias_that_two_layers_read_stays_one_parameter():
    proto = model(
        ["h = Gemm<transB = 1>(x, w, b)", "y = Gemm<transB = 1>(h, w, b)"],
        [floats("x", "n", 4)], [floats("y", "n", 4)], w=weight(4, 4), b=weight(4),
    )  # fmt: skip
    assert len(list(same(proto, weight(2, 4)).parameters())) == 2


def test_a_weight_that_is_read_as_it_is_too_is_not_copied_into_a_layer():
    proto = model(
        ["p = MatMul(x, w)", "y = Add(p, w)"], [floats("x", 4, 4)], [floats("y", 4, 4)], w=weight(4, 4)
    )
    assert len(list(same(proto, weight(4, 4)).parameters())) == 1


def test_masks_and_indices_are_buffers_and_lone_numbers_are_neither():
    mask = np.triu(np.full((5, 5), -1e9, np.float32), 1)
    proto = model(
        ["s = Mul(x, half)", "m = Add(s, mask)", "g = Mul(m, gain)", "y = Gather<axis = 1>(g, order)"],
        [floats("x", 5, 5)], [floats("y", 5, 2, 35)],
        mask=mask, half=np.array(0.5, np.float32), gain=weight(5), order=np.tile(np.arange(5), (2, 7)),
    )  # fmt: skip
    module = same(proto, weight(5, 5))
    assert [name for name, _ in module.named_parameters()] == ["gain"]
    assert {name for name, _ in module.named_buffers()} == {"mask", "order"}


def test_running_statistics_move_in_training_and_layers_do_not_share_them():
    proto = model(
        ["a = BatchNormalization<momentum = 0.8>(x, s, b, m, v)", "y = BatchNormalization(a, s, b, m, v)"],
        [floats("x", "n", 3, 4, 4)], [floats("y", "n", 3, 4, 4)],
        s=weight(3), b=weight(3), m=weight(3), v=np.abs(weight(3)) + 1,
    )  # fmt: skip
    module = same(proto, weight(2, 3, 4, 4))
    first, second = layers(module, nn.BatchNorm2d)
    assert first.weight is second.weight
    assert first.momentum == pytest.approx(0.2)
    module.train()(torch.randn(4, 3, 4, 4))
    assert not torch.equal(first.running_mean, second.running_mean)


def test_dropout_drops_in_training_alone():
    proto = model(["y = Dropout(x, r)"], [floats("x", 50)], [floats("y", 50)], r=np.array(0.5, np.float32))
    module = same(proto, np.ones(50, np.float32))
    assert set(module.train()(torch.ones(50))[0].unique().tolist()) == {0.0, 2.0}


RECURRENT = {
    "LSTM": (4, nn.LSTM, 'direction = "bidirectional"'),
    "GRU": (3, nn.GRU, 'direction = "reverse", linear_before_reset = 1'),
    "RNN": (1, nn.RNN, 'activations = ["Relu"]'),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_operators_are_layers(kind):
    gates, layer, settings = RECURRENT[kind]
    ways = 2 if "bi" in settings else 1
    states = "h, c" if kind == "LSTM" else "h"
    proto = model(
        [f"y, last = {kind}<hidden_size = 5, {settings}>(x, w, r, b, , {states})"],
        [floats("x", 6, "n", 3), floats("h", ways, "n", 5), *([floats("c", ways, "n", 5)] if kind == "LSTM" else [])],
        [floats("y", 6, ways, "n", 5), floats("last", ways, "n", 5)],
        w=weight(ways, gates * 5, 3), r=weight(ways, gates * 5, 5), b=weight(ways, gates * 10),
    )  # fmt: skip
    inputs = [weight(6, 2, 3), *(weight(ways, 2, 5) for _ in proto.graph.input[1:])]
    assert len(layers(same(proto, *inputs), layer)) == 1


@pytest.mark.parametrize("settings", ["clip = 0.5", "linear_before_reset = 0"])
def test_recurrent_operators_that_no_layer_does_run_step_by_step_and_train(settings):
    proto = model(
        [f"y = GRU<hidden_size = 5, {settings}>(x, w, r, b)"],
        [floats("x", 6, "n", 3)], [floats("y", 6, 1, "n", 5)],
        w=weight(1, 15, 3), r=weight(1, 15, 5), b=weight(1, 30),
    )  # fmt: skip
    module = same(proto, weight(6, 2, 3))
    assert not layers(module, nn.GRU)
    module(torch.randn(6, 2, 3))[0].sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in module.parameters())


def test_shapes_that_are_computed_leave_the_batch_free():
    """As exporters write `x.view(x.shape[0], -1)`, an expansion, and a scale by a size."""
    proto = model(
        [
            "s = Shape(x)", "n = Gather(s, zero)", "u = Unsqueeze(n, zeros)", "t = Concat<axis = 0>(u, rest)",
            "f = Reshape(x, t)", "e = ConstantOfShape(one)", "m = Mul(e, ones)", "q = Equal(t, minus)",
            "w = Where(q, ones2, t)", "z = Expand(b, w)", "y = Add(f, z)",
        ],
        [floats("x", "n", 3, 4)], [floats("y", "n", None)],
        zero=np.array(0), zeros=np.array([0]), rest=np.array([12]), one=np.array([1]), ones=np.array([1.0], np.float32),
        minus=np.array([-1]), ones2=np.array([1, 1]), b=weight(12),
    )  # fmt: skip
    module = same(proto, weight(2, 3, 4))
    free = torch.export.Dim("n")
    program = torch.export.export(module, (torch.randn(2, 3, 4),), dynamic_shapes=({0: free},))
    assert program.module()(torch.randn(7, 3, 4))[0].shape == (7, 12)


def test_a_stored_integer_weight_becomes_a_parameter_that_trains_through_its_rounding():
    levels = RANDOM.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8)
    proto = model(
        [
            "q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)",
            "k = DequantizeLinear<axis = 0>(w, ws)", "y = Conv(d, k)",
        ],
        [floats("x", "n", 4, 5, 5)], [floats("y", "n", 6, 3, 3)],
        s=np.array(0.05, np.float32), z=np.array(100, np.uint8), w=levels, ws=np.abs(weight(6)) / 50 + 1e-3,
    )  # fmt: skip
    module = same(proto, weight(2, 4, 5, 5))
    (parameter,) = module.parameters()
    assert parameter.shape == (6, 4, 3, 3)
    given = torch.randn(2, 4, 5, 5, requires_grad=True)
    module(given)[0].square().sum().backward()
    assert parameter.grad.abs().min() > 0
    assert (given.grad != 0).float().mean() > 0.9


def test_branches_and_loops_run_and_read_weights_from_outside():
    body = onnx.parser.parse_graph(
        "body (int64 i, bool go, float[2,3] a) => (bool go2, float[2,3] b, float[2,3] each)"
        "{ go2 = Identity(go) b = Add(a, w) each = Mul(b, x) }"
    )
    branches = {
        f"{name}_branch": onnx.parser.parse_graph(
            f"{name} () => (float[2,3] {name}_y) {{ {name}_y = {op}(last) }}"
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    proto = model(
        [
            helper.make_node("Loop", ["trips", "", "x"], ["last", "all"], body=body),
            "sum = ReduceSum<keepdims = 0>(x)", "positive = Greater(sum, zero)",
            helper.make_node("If", ["positive"], ["y"], **branches),
        ],
        [floats("x", 2, 3), ("trips", TensorProto.INT64, [])], [floats("y", 2, 3), floats("all", None, 2, 3)],
        w=weight(3), zero=np.array(0, np.float32),
    )  # fmt: skip
    for sign in (1, -1):
        module = same(proto, sign * np.abs(weight(2, 3)), np.array(4))
    module(torch.randn(2, 3), torch.tensor(2))[1].sum().backward()
    assert [name for name, one in module.named_parameters() if one.grad.any()] == ["Loop_0.body.w"]


def test_functions_of_the_model_are_inlined():
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [onnx.parser.parse_node("b = Add(a, a)")], [helper.make_opsetid("", 21)]
    )
    proto = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        [floats("x", 3)], [floats("y", 3)], functions=[function],
    )  # fmt: skip
    same(proto, weight(3))


def test_initializers_that_are_inputs_are_not_given_and_outputs_keep_their_order():
    proto = model(
        ["b = Add(x, w)", "a = Neg(x)"],
        [floats("w", 3), floats("x", 3)], [floats("a", 3), floats("b", 3)], w=weight(3),
    )  # fmt: skip
    x = torch.randn(3)
    a, b = to_module(proto)(x)
    assert torch.equal(a, -x)
    assert not torch.equal(b, x)


def test_a_copy_is_its_own_and_takes_the_state():
    proto = model(["y = MatMul(x, w)"], [floats("x", "n", 4)], [floats("y", "n", 3)], w=weight(4, 3))
    module = to_module(proto)
    other = copy.deepcopy(module)
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert not other(torch.ones(1, 4))[0].any()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(torch.ones(1, 4))[0], module(torch.ones(1, 4))[0])


def test_everything_that_is_not_there_is_named_at_once():
    proto = model(
        [
            helper.make_node("MelWeightMatrix", ["n", "n", "n", "r", "r"], ["f"], name="spectrum"),
            helper.make_node("Cast", ["x"], ["c"], name="small", to=TensorProto.FLOAT8E4M3FN),
            "y = Relu(x)",
        ],
        [floats("x", 1, 4, 1)], [floats("y", 1, 4, 1), floats("f", None, None), ("c", TensorProto.FLOAT8E4M3FN, [1, 4, 1])],
        n=np.array(8),
        r=np.array(4.0, np.float32),
    )  # fmt: skip
    with pytest.raises(UnsupportedOperator) as error:
        to_module(proto)
    assert error.value.stage == "converting"
    assert error.value.node == "spectrum"
    assert error.value.hint
    assert error.value.errors == [
        {"operator": "MelWeightMatrix", "node": "spectrum", "reason": "the operator is not known"},
        {"operator": "Cast", "node": "small", "reason": "the type FLOAT8E4M3FN"},
    ]


def test_an_opset_that_is_too_old_is_refused():
    proto = model(["y = Relu(x)"], [floats("x", 3)], [floats("y", 3)], opset=6)
    with pytest.raises(UnsupportedOperator, match="opset 6") as error:
        to_module(proto)
    assert "version_converter" in error.value.hint


def test_any_names_will_do_and_inputs_and_constants_may_be_outputs():
    nodes = [
        helper.make_node("Add", ["class", "a.b"], ["1"], name="type"),
        helper.make_node("Mul", ["1", "a_b"], ["self"], name="modules"),
        helper.make_node("Add", ["self", "weight/of:it"], ["forward"], name="0"),
    ]
    proto = model(
        nodes,
        [floats("class", 3), floats("a.b", 3), floats("a_b", 3)],
        [floats("forward", 3), floats("a.b", 3), floats("weight/of:it", 3)],
        **{"weight/of:it": weight(3)},
    )
    same(proto, weight(3), weight(3), weight(3))
