"""Resizing of images of any size, as ONNX Runtime and PyTorch do it."""

from itertools import product

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim
from torch.nn import functional

from tests.workers.onnx_to_torch.exports import in_onnxruntime, run
from workers.onnx_to_torch.convert import to_module

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
CASES = list(product(("nearest", "linear", "cubic"), COORDINATES, (2.0, 1.5, 0.6)))


def resizing(mode: str, coordinates: str, scale: float) -> onnx.ModelProto:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, "h", "w"]) for name in "xy"]
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=coordinates
    )
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "s")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("mode", "coordinates", "scale"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)
def test_resizing_is_onnx_runtimes(mode, coordinates, scale):
    proto = resizing(mode, coordinates, scale)
    x = np.random.default_rng(0).random((2, 2, 10, 15)).astype(np.float32)
    (got,), (wanted,) = run(to_module(proto), [x]), in_onnxruntime(proto, [x])
    np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)


def test_a_size_that_is_free_stays_free_and_is_pytorchs():
    module = to_module(resizing("linear", "align_corners", 1.5))
    x = torch.rand(2, 2, 10, 14)
    auto = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    program = torch.export.export(module, (x,), dynamic_shapes=(auto,))
    other = torch.rand(3, 2, 8, 6)
    wanted = functional.interpolate(other, scale_factor=1.5, mode="bilinear", align_corners=True)
    torch.testing.assert_close(program.module()(other)[0], wanted)
