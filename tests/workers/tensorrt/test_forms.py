"""Models in the forms that TensorRT reads precision from: where Q/DQ go, what they cost, what bfloat16 computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError

from app.catalog.pass_params.quantization import QuantizeStaticParams
from app.catalog.runtimes import RUNTIMES
from app.errors import UnsupportedOperator
from tests.workers.tensorrt.networks import KINDS, Exported
from tests.workers.tensorrt.precisions import in_precision
from workers import qdq, runtimes
from workers.model_handle import ModelHandle
from workers.onnx_proof import open_session

Network = Callable[..., Exported]
LEAST_DB = {"int8": 35, "int8 + fp16": 35, "fp8": 24, "fp8 + fp16": 24}


def signal_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()))


def outputs(model: ModelHandle, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = open_session(model).run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("precision", list(LEAST_DB))
@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits_stay_close(kind: str, precision: str, network: Network, tmp_path: Path) -> None:
    subject = network(kind)
    model = in_precision(subject, precision, tmp_path / "model")
    before = outputs(subject.model, subject.x)
    assert signal_db(before, outputs(model, subject.x)) > LEAST_DB[precision]


def test_scales_zeros_and_weights_are_as_tensorrt_wants_them(network: Network, tmp_path: Path) -> None:
    graph = in_precision(network("cnn"), "int8", tmp_path / "model").load_onnx().graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        activation, weight = made[node.input[0]], made[node.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        assert arrays[activation.input[1]].shape == ()
        assert arrays[weight.input[1]].shape == (16,)
        assert arrays[weight.input[0]].dtype == np.int8
        assert not arrays[weight.input[2]].any()
        assert np.abs(arrays[weight.input[0]].astype(int)).max() == 127
        assert arrays[node.input[2]].dtype == np.float32  # the bias is left
    # nothing stands between a convolution and the Relu or the addition that fuses with it
    read = {name: [node.op_type for node in graph.node if name in node.input] for name in made}
    assert [read[node.output[0]] for node in convolutions] == [["Relu"], ["Relu"], ["Add"]]


def test_of_a_residual_the_side_that_is_no_convolution_is_quantized(network: Network, tmp_path: Path) -> None:
    graph = in_precision(network("cnn"), "fp8", tmp_path / "model").load_onnx().graph
    made = {name: node for node in graph.node for name in node.output}
    (addition,) = (node for node in graph.node if node.op_type == "Add")
    assert sorted(made[name].op_type for name in addition.input) == ["Conv", "DequantizeLinear"]
    weights = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    assert weights == {TensorProto.FLOAT8E4M3FN}


def test_values_beyond_the_range_are_clipped() -> None:
    values = np.array([1000.0, -1000.0, 0.26], np.float32)
    one = np.float32(1)
    assert qdq.INT8.quantized(values, one).tolist() == [127, -127, 0]
    assert qdq.FP8.quantized(values, one).astype(np.float32).tolist() == [448.0, -448.0, 0.25]


def test_bias_correction_and_a_half_rest_belong_to_one_form_each() -> None:
    with pytest.raises(ValidationError, match="rest is fp32 unless"):
        QuantizeStaticParams(rest="fp16")
    with pytest.raises(ValidationError, match="correct_bias"):
        QuantizeStaticParams(form="tensorrt", correct_bias=True)


@pytest.mark.parametrize("kind", ["cnn", "encoder"])
def test_bfloat16_computes_within_its_eight_bits(kind: str, network: Network, tmp_path: Path) -> None:
    subject = network(kind)
    model = in_precision(subject, "bf16", tmp_path / "model").load_onnx()
    (got,) = ReferenceEvaluator(model).run(None, {"x": subject.x[:4]})
    assert got.dtype == np.float32
    assert 30 < signal_db(outputs(subject.model, subject.x[:4]), got) < 70


def test_a_model_in_bfloat16_is_refused_where_there_are_no_kernels(network: Network, tmp_path: Path) -> None:
    model = in_precision(network("cnn"), "bf16", tmp_path / "model")
    assert {TensorProto.BFLOAT16} == {
        tensor.data_type for tensor in onnx.load(str(model.path)).graph.initializer if len(tensor.dims) == 4
    }
    (tmp_path / "engine").mkdir()
    with pytest.raises(UnsupportedOperator):
        runtimes.registry.alone("onnxruntime-cpu").build(
            model, RUNTIMES["onnxruntime-cpu"].params(), tmp_path / "engine"
        )
