"""Operations and bytes of models against numbers worked out by hand, and against the counts of inspections."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.workers.formats.uploads import graph_model, tensor, value
from tests.workers.profiling.subjects import Subject
from workers.formats.flops import count_flops
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.profiling.costs import Cost, Model, priced, read_model
from workers.profiling.recorded import Row
from workers.runtimes.base import Feeds

FLOAT = 4  # bytes
IMAGE = 3 * 8 * 8
KERNEL = 8 * 3 * 3 * 3
MAPS = 8 * 8 * 8


def row(*sources: str, precision: str = "fp32", calls: float = 1.0, ms: float = 1.0) -> Row:
    """A row that computes these nodes."""
    return Row("+".join(sources) or "added", "?", calls, ms, precision=precision, sources=sources)


def cost(model: Model, *rows: Row) -> list[Cost]:
    """What rows cost, where every other operation has a row of its own."""
    told = {name for one in rows for name in one.sources}
    others = [row(name) for name in model.operations if name not in told]
    return priced([*rows, *others], model)[1][: len(rows)]


def convolutional(folder: Path) -> ModelHandle:
    """Convolution, batch norm, ReLU, and a second reader of the ReLU; the number of images is free."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Reshape", ["r", "flat"], ["f"], "view"),
        helper.make_node("MatMul", ["f", "p"], ["y"], "product"),
    ]
    weights = [
        tensor("w", np.ones((8, 3, 3, 3))),
        *(tensor(name, np.ones(8)) for name in "sbmv"),
        onnx.numpy_helper.from_array(np.array([-1, MAPS]), "flat"),
        tensor("p", np.ones((MAPS, 10))),
    ]
    model = graph_model(nodes, [value("x", ["n", 3, 8, 8])], [value("y", ["n", 10])], weights, opset=18)
    return save_onnx(model, folder)


def images(count: int) -> Feeds:
    """Feeds of the network above."""
    return {"x": np.zeros((count, 3, 8, 8), np.float32)}


@pytest.mark.parametrize("batch", [1, 5])
def test_each_row_costs_what_it_computes_and_what_enters_and_leaves_it(tmp_path: Path, batch: int) -> None:
    model = read_model(convolutional(tmp_path), images(batch))
    conv, whole, relu, product = cost(
        model, row("conv"), row("conv", "norm", "relu"), row("relu"), row("product")
    )
    flops = 2 * batch * MAPS * 27
    assert conv == Cost(flops, FLOAT * batch * (IMAGE + MAPS), FLOAT * KERNEL)
    # conv and norm belong to the slower row alone, of two that are equally slow to the first
    assert whole == Cost(0, FLOAT * batch * 2 * MAPS, FLOAT * 4 * 8)
    assert relu.flops is None
    # it reads what the view shows, and a view moves nothing
    assert product == Cost(2 * batch * MAPS * 10, FLOAT * batch * (MAPS + 10), FLOAT * MAPS * 10)


def test_what_no_row_names_was_fused_into_its_neighbour(tmp_path: Path) -> None:
    model = read_model(convolutional(tmp_path), images(1))
    conv, product = priced([row("conv"), row("product")], model)[1]
    assert conv == Cost(2 * MAPS * 27, FLOAT * (IMAGE + MAPS), FLOAT * (KERNEL + 4 * 8))
    assert product.value_bytes == FLOAT * (MAPS + 10)
    by_last = priced([row("relu"), row("product")], model)[1]
    assert by_last == [conv, product]


def test_a_fused_row_has_the_operations_of_all_and_the_bytes_of_its_border(tmp_path: Path) -> None:
    model = read_model(convolutional(tmp_path), images(2))
    (fused,) = cost(model, row("conv", "norm", "relu", "view"))
    assert fused == Cost(2 * 2 * MAPS * 27, FLOAT * 2 * (IMAGE + MAPS), FLOAT * (KERNEL + 4 * 8))
    (everything,) = cost(model, row(*model.operations))
    assert everything.value_bytes == FLOAT * 2 * (IMAGE + 10)
    assert everything.flops == model.flops


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("int8", 1), ("fp64", 4)])
def test_values_are_as_wide_as_what_the_row_computes_in_and_no_wider_than_they_are(
    tmp_path: Path, precision: str, size: int
) -> None:
    model = read_model(convolutional(tmp_path), images(1))
    (conv,) = cost(model, row("conv", precision=precision))
    assert conv.moved_bytes == size * (IMAGE + MAPS + KERNEL)


def test_what_several_rows_claim_counts_where_most_time_goes(tmp_path: Path) -> None:
    model = read_model(convolutional(tmp_path), images(1))
    reorder, conv, added = cost(model, row("conv", ms=0.1), row("conv", ms=2.0), row())
    assert (reorder.flops, added.flops) == (None, None)
    assert conv.flops == 2 * MAPS * 27


def test_what_the_runtime_told_stays(tmp_path: Path) -> None:
    model = read_model(convolutional(tmp_path), images(1))
    told = Row("conv", "Conv", 1, 1.0, sources=("conv",), flops=7, moved_bytes=10_000)
    (found, *_), (price, *_) = priced([told, row("norm"), row("relu"), row("product")], model)
    assert (found.flops, found.moved_bytes) == (7, 10_000)
    assert price.weight_bytes == FLOAT * KERNEL
    (found,), _ = priced([told], None)
    assert (found.flops, found.moved_bytes) == (7, 10_000)


def test_of_a_table_only_the_rows_are_read_that_come_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"], "look_up"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "unpack"),
        helper.make_node("MatMul", ["words", "w"], ["y"], "product"),
    ]
    model = graph_model(
        nodes,
        [value("ids", ["n"], TensorProto.INT64)],
        [value("y", ["n", 5])],
        [
            tensor("table", np.ones((1000, 16))),
            onnx.numpy_helper.from_array(np.ones((16, 5), np.int8), "q"),
            tensor("s", np.ones(())),
        ],
        opset=18,
    )
    read = read_model(save_onnx(model, tmp_path), {"ids": np.zeros(3, np.int64)})
    look_up, unpack, product = cost(read, row("look_up"), row("unpack"), row("product"))
    assert look_up.moved_bytes == pytest.approx(3 * 16 * FLOAT * 2 + 3 * 8, abs=1)
    assert unpack.moved_bytes == 0  # done when the engine is built
    assert product.weight_bytes == 16 * 5 + FLOAT  # as it is stored


def test_shapes_that_inference_does_not_know_are_those_of_a_run(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("BiasGelu", ["x", "bias"], ["h"], "gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "product"),
    ]
    model = graph_model(
        nodes,
        [value("x", ["n", 16])],
        [value("y", [])],
        [tensor("bias", np.ones(16)), tensor("w", np.ones((16, 4)))],
        domains=["com.microsoft"],
        opset=18,
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    read = read_model(save_onnx(model, tmp_path), {"x": np.zeros((3, 16), np.float32)})
    assert read.operations["product"].flops == 2 * 3 * 16 * 4


def test_a_network_costs_what_its_inspection_counted(resnet: Subject, bert: Subject) -> None:
    for subject in (resnet, bert):
        counted, unknown = count_flops(subject.onnx.load_onnx(weights=False))
        assert not unknown
        models = [read_model(one, subject.feeds[0]) for one in (subject.onnx, subject.original)]
        assert models[0].flops == counted
        assert models[1].flops == pytest.approx(
            counted, rel=2e-3
        )  # products of one column are folded in ONNX
        rows = [[row(name) for name in model.operations] for model in models]
        assert_all_known([cost(model, *one) for model, one in zip(models, rows, strict=True)])


def assert_all_known(costs: Sequence[Sequence[Cost]]) -> None:
    """Of every operation of every model."""
    assert all(one.flops is not None and one.moved_bytes is not None for found in costs for one in found)


def test_openvino_counts_the_same_operations(resnet: Subject) -> None:
    from workers.profiling.openvino_costs import of_openvino

    model = of_openvino(resnet.onnx.path, resnet.feeds[0])
    assert model.flops == count_flops(resnet.onnx.load_onnx(weights=False))[0]
    (everything,) = cost(model, row(*model.operations))
    weights = sum(np.prod(one.dims) for one in resnet.onnx.load_onnx().graph.initializer)
    assert everything.weight_bytes == pytest.approx(FLOAT * weights, rel=1e-3)


def test_what_runs_in_a_loop_costs_as_often_as_it_is_called(recurrent: Subject) -> None:
    model = read_model(recurrent.onnx, recurrent.feeds[0])
    inside = next(one for one in model.operations.values() if one.operator == "MatMul" and one.repeated)
    (once,), (often,) = cost(model, row(inside.name)), cost(model, row(inside.name, calls=6.0))
    assert once.flops == 2 * 256 * 256
    assert often.flops == 6 * once.flops
    lstm = next(one for one in model.operations.values() if one.operator == "LSTM")
    assert lstm.flops == 2 * 16 * 1 * 2 * 4 * 256 * 256
