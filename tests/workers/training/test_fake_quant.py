"""Rounding to 8 bits as training sees it, against ONNX Runtime's quantizer, ONNX's operators, and derivatives from papers."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.quant_utils import compute_scale_zp
from torch import nn

from workers.training.fake_quant import FakeQuantize, FoldedNorm, FoldedWeight, Grid, QuantizedWeight
from workers.training.fake_quant_graph import GRIDS

RANGES = [(-1.0, 3.0), (0.0, 6.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-0.3, 0.7), (-2.0, 2.0)]
IDS = {(TensorProto.UINT8, False): "uint8", (TensorProto.UINT8, True): "uint8-symmetric"}
IDS |= {(TensorProto.INT8, False): "int8", (TensorProto.INT8, True): "int8-symmetric"}


def through_onnx(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, kind: int, axis: int = 1) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear, by ONNX's own evaluator."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    given = [
        helper.make_tensor_value_info(name, kind_, list(value.shape))
        for name, kind_, value in (
            ("x", TensorProto.FLOAT, x),
            ("s", TensorProto.FLOAT, scale),
            ("z", kind, zero),
        )
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(x.shape))
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, [out]), opset_imports=[helper.make_opsetid("", 19)]
    )
    found: np.ndarray = ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero})[0]
    return found


@pytest.mark.parametrize("key", list(GRIDS), ids=list(IDS.values()))
def test_scales_and_zero_points_are_those_of_onnx_runtimes_quantizer(key):
    grid = GRIDS[key]
    kind = helper.tensor_dtype_to_np_dtype(key[0])
    for low, high in RANGES:
        zero, scale = compute_scale_zp(
            np.float32(low),
            np.float32(high),
            np.array(grid.low, kind),
            np.array(grid.high, kind),
            grid.symmetric,
        )
        found, shift = grid.of(torch.tensor(low), torch.tensor(high))
        assert float(found) == pytest.approx(float(scale), rel=1e-6)
        if high > low:  # of a range without extent any level is its zero
            assert int(shift) == int(zero), (low, high)


@pytest.mark.parametrize("key", list(GRIDS), ids=list(IDS.values()))
def test_ends_give_the_scale_and_zero_point_that_they_came_from(key):
    grid = GRIDS[key]
    for low, high in RANGES[:4]:
        scale, zero = grid.of(torch.tensor(low), torch.tensor(high))
        again = grid.of(*(torch.tensor(end) for end in grid.ends(float(scale), int(zero))))
        assert float(again[0]) == pytest.approx(float(scale), rel=1e-6)
        assert int(again[1]) == int(zero)


@pytest.mark.parametrize("ranges", ["fixed", "learned"])
@pytest.mark.parametrize("key", list(GRIDS), ids=list(IDS.values()))
def test_an_activation_is_what_onnx_makes_of_it(key, ranges):
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)) * 2
    layer = FakeQuantize(GRIDS[key], -1.0, 3.0, ranges)
    scale, zero = GRIDS[key].of(torch.tensor(-1.0), torch.tensor(3.0))
    kind = helper.tensor_dtype_to_np_dtype(key[0])
    wanted = through_onnx(x.numpy(), scale.numpy(), zero.numpy().astype(kind), key[0])
    # -128 is a level that ONNX has and a symmetric grid leaves out
    wanted = np.maximum(wanted, float((GRIDS[key].low - zero) * scale))

    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-6)
    layer.train()
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_weight_is_what_onnx_makes_of_it_channel_by_channel(axis):
    weight = (
        torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 9.0])[:, None]
    )
    weight[0] = 0  # a channel without extent
    layer = QuantizedWeight(GRIDS[TensorProto.INT8, True], axis)
    others = tuple(one for one in range(3) if one != axis)
    largest = weight.abs().amax(others) if axis is not None else weight.abs().amax()
    scale = torch.where(largest > 0, largest / 127, 1.0)
    wanted = through_onnx(
        weight.numpy(), scale.numpy(), np.zeros(scale.shape, np.int8), TensorProto.INT8, axis or 0
    )

    np.testing.assert_allclose(layer(weight).numpy(), wanted, rtol=1e-6)


def test_gradients_pass_inside_the_range_and_end_outside():
    x = torch.tensor([-2.0, -0.5, 0.2, 2.9, 3.5], requires_grad=True)
    FakeQuantize(GRIDS[TensorProto.UINT8, False], -1.0, 3.0, "fixed")(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_gradient_of_a_learned_range_is_that_of_learned_steps():
    """Esser et al., equation 3: round(v/s) - v/s inside, the level at the end outside; and equation 4's share of it."""
    grid = Grid(-127, 127, True)
    x = torch.tensor([0.31, -0.77, 5.0, -9.0])
    layer = FakeQuantize(grid, -1.0, 1.0, "learned").train()
    layer(x).sum().backward()

    scaled = x * 127
    steps = torch.where(scaled.abs() <= 127, torch.round(scaled) - scaled, torch.sign(scaled) * 127)
    share = (x.numel() * 127) ** -0.5
    # the larger end makes the scale; of equal ones each half: d scale / d end is 1/127 in all
    assert float(layer.ends.grad.abs().sum()) == pytest.approx(
        abs(float(steps.sum()) * share / 127), rel=1e-4
    )


def test_a_moving_range_follows_batches_until_it_is_frozen():
    layer = FakeQuantize(GRIDS[TensorProto.UINT8, False], 0.0, 1.0, "moving")
    wide = torch.linspace(-4, 8, 50)
    layer.eval()
    layer(wide)
    assert layer.ends.tolist() == [0, 1]
    layer.train()
    layer(wide)
    assert layer.ends.tolist() == pytest.approx([-0.04, 1.07])
    layer(torch.tensor([torch.nan, 1.0]))
    layer.frozen = True
    layer(wide)
    assert layer.ends.tolist() == pytest.approx([-0.04, 1.07])


def test_a_range_keeps_within_what_makes_the_tensor():
    """A runtime leaves out the Clip before a range that does its work: the range must not let through more."""
    layer = FakeQuantize(GRIDS[TensorProto.UINT8, False], -1.0, 9.0, "learned", (0.0, 6.0))
    assert [float(end.detach()) for end in layer.range()] == [0, 6]
    assert layer(torch.tensor([-1.0, 7.0])).tolist() == [0, 6]


@pytest.mark.parametrize("gamma", [1.7, -0.4, 0.0, 1e-9], ids=["plain", "negative", "zero", "tiny"])
def test_a_folded_norm_computes_what_the_folded_network_will(gamma):
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight[:2] = gamma
        norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    rounded = QuantizedWeight(GRIDS[TensorProto.INT8, True], 0)
    weight, after = FoldedWeight(norm, rounded, 0).eval(), FoldedNorm(norm).eval()
    x = torch.randn(2, 3, 8, 8)
    found = after(nn.functional.conv2d(x, weight(convolution.weight)), convolution.bias)

    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    flat = rounded(convolution.weight * scale[:, None, None, None])
    shift = (convolution.bias - norm.running_mean) * scale + norm.bias
    wanted = nn.functional.conv2d(x, flat, shift)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_while_it_trains_a_folded_norm_normalizes_by_the_batch():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).train()
    with torch.no_grad():
        norm.running_var.fill_(9.0)
    weight = FoldedWeight(norm, QuantizedWeight(GRIDS[TensorProto.INT8, True], 0), 0)
    found = FoldedNorm(norm).train()(
        nn.functional.conv2d(torch.randn(16, 3, 8, 8), weight(torch.randn(4, 3, 3, 3)))
    )

    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    assert not torch.equal(norm.running_var, torch.full((4,), 9.0))
