"""A model of one node, for self-tests."""

from pathlib import Path

from onnx import TensorProto, helper

from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx


def write_relu(folder: Path) -> ModelHandle:
    """Relu from x to y, fp32 of shape [1, 2]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "self-test", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return save_onnx(model, folder)
