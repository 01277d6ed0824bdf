"""From rows to the layers of the model that was uploaded, through what passes and conversions left: real ones, really applied."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.catalog.passes import PASSES
from tests.workers.engines.networks import ArraySamples
from tests.workers.profiling.subjects import Subject, look
from workers import passes
from workers.context import PassContext
from workers.conversion import PROGRAM, open_model
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.profiling.onnx_labels import labelled
from workers.profiling.origin import Layers, layers_by_row, layers_of, with_sources
from workers.surgery.program_structure import of_program
from workers.torch.program import export, load_program, save_program

HEAVY = frozenset(("Conv", "MatMul", "Gemm", "MatMulInteger"))


def changed(name: str, model: ModelHandle, subject: Subject, out: Path, **params) -> ModelHandle:
    """The model after a pass."""
    out.mkdir()
    data = {key: np.concatenate([one[key] for one in subject.feeds]) for key in subject.feeds[0]}
    samples = {"calibration": ArraySamples(data)} if "calibration" in PASSES[name].inputs else {}
    return passes.registry.get(name)(
        model, PASSES[name].params(**params), PassContext(out=out, samples=samples)
    )


def as_program(model: ModelHandle, out: Path) -> ModelHandle:
    out.mkdir()
    network = open_model(model).to_torch()
    save_program(export(network), network.inputs, network.outputs, out / PROGRAM)
    return ModelHandle(out, PROGRAM, "torch-export", tree_digest(out))


def as_onnx(model: ModelHandle, out: Path) -> ModelHandle:
    return open_model(model).to_onnx(out)


def computing(model: ModelHandle) -> set[str]:
    """The layers of a program with operations, as `burnish models show --layers` has them."""
    return {layer["name"] for layer in of_program(load_program(model.path))["layers"] if layer["flops"]}


def operators(model: ModelHandle) -> dict[str, str]:
    proto = model.load_onnx(weights=False)
    return {
        label: node.op_type
        for level in labelled(proto.graph).levels()
        for label, node in zip(level.labels, level.graph.node, strict=True)
    }


def heavy(layers: Layers, source: ModelHandle) -> dict[str, tuple[str, ...]]:
    kinds = operators(source)
    return {label: names for label, names in layers.items() if kinds[label] in HEAVY}


def times_named(layers: Layers, source: ModelHandle, wanted: set[str]) -> Counter[str]:
    return Counter(name for names in heavy(layers, source).values() for name in names if name in wanted)


def test_nodes_of_an_exported_network_name_its_layers(resnet):
    layers = layers_of(resnet.onnx, resnet.original)

    assert times_named(layers, resnet.onnx, computing(resnet.original)) == dict.fromkeys(
        computing(resnet.original), 1
    )
    folded = next(
        names for names in layers.values() if "features.stage1.unit1.body.conv2.conv" in names
    )  # the exporter folds the batch norm into the convolution
    assert "features.stage1.unit1.body.conv2.bn" in folded
    assert set(layers) == set(operators(resnet.onnx))


def test_nodes_of_a_call_name_the_call(bert):
    layers = layers_of(bert.onnx, bert.original)
    wanted = computing(bert.original)

    calls = {name for name in wanted if name.startswith("scaled_dot_product_attention")}
    assert len(calls) == 2
    assert times_named(layers, bert.onnx, wanted) == {name: 2 if name in calls else 1 for name in wanted}


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_heavy_rows_of_an_engine_name_every_layer_once(runtime, resnet, tmp_path):
    looked = look(runtime, resnet.onnx, resnet.feeds, tmp_path)
    rows = with_sources(looked.recorded.rows, looked.engine, resnet.onnx)
    named = layers_by_row(rows, layers_of(resnet.onnx, resnet.original))

    wanted = computing(resnet.original)
    assert Counter(name for names in named for name in names if name in wanted) == dict.fromkeys(wanted, 1)
    nodes = set(operators(resnet.onnx))
    assert all(source in nodes for row in rows for source in row.sources)
    slowest = sorted(zip(rows, named, strict=True), key=lambda pair: -pair[0].mean_ms)[:10]
    assert all(names for _, names in slowest)


def test_nodes_that_quantizing_puts_in_are_led_through_each_step(bert, tmp_path):
    simple = changed("simplify", bert.onnx, bert, tmp_path / "simple")
    quantized = changed("quantize-dynamic", simple, bert, tmp_path / "quantized")
    layers = layers_of(quantized, bert.original, [bert.onnx, simple])

    kinds = operators(quantized)
    assert Counter(kinds.values())["MatMulInteger"] >= 12
    linear = {name for name in computing(bert.original) if name.startswith("encoder.")}
    assert times_named(layers, quantized, linear) == dict.fromkeys(linear, 1)


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_layers_that_a_pass_split_name_the_one_that_they_were(known, resnet, tmp_path):
    """Without the models in between too: by the modules' names, as calls are numbered anew."""
    split = changed("depthwise-separable", resnet.original, resnet, tmp_path / "split", keep_flops=0.6)
    made = as_onnx(split, tmp_path / "onnx")
    layers = layers_of(made, resnet.original, [split] if known else [])

    wanted = computing(resnet.original)
    times = times_named(layers, made, wanted)
    parts = {
        name.rpartition(".")[0] for name in computing(split) if name.endswith((".depthwise", ".pointwise"))
    }
    assert parts
    assert times == {name: 2 if name in parts else 1 for name in wanted}


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_onnx_model_that_was_a_network_meanwhile(known, bert, tmp_path):
    program = as_program(bert.onnx, tmp_path / "program")
    lower = changed("low-rank", program, bert, tmp_path / "lower", rank=16)
    made = as_onnx(lower, tmp_path / "onnx")
    layers = layers_of(made, bert.onnx, [program, lower] if known else [])

    constants = {one.name for one in bert.onnx.load_onnx(weights=False).graph.initializer}
    nodes = {node.name: node for node in bert.onnx.load_onnx(weights=False).graph.node}
    wanted = {name for name, node in nodes.items() if node.op_type in ("MatMul", "Gemm")}
    weighted = {name for name in wanted if constants & set(nodes[name].input)}
    assert len(weighted) == 12
    # every linear layer is two now; products of two values are what they were
    assert times_named(layers, made, wanted) == {name: 2 if name in weighted else 1 for name in wanted}


def test_one_model_needs_no_names(recurrent, tmp_path):
    looked = look("onnxruntime-cpu", recurrent.onnx, recurrent.feeds, tmp_path)
    rows = with_sources(looked.recorded.rows, looked.engine, recurrent.onnx)

    assert layers_of(recurrent.onnx, recurrent.original) == {}
    named = layers_by_row(rows, {})
    assert named == [list(row.sources) for row in rows]
    assert {name for names in named for name in names} == set(operators(recurrent.onnx))


def test_an_ir_names_the_nodes_that_it_was_made_of(resnet, tmp_path):
    quantized = changed("quantize-openvino", resnet.onnx, resnet, tmp_path / "ir")
    assert quantized.format == "openvino"
    layers = layers_of(quantized, resnet.original, [resnet.onnx])

    wanted = computing(resnet.original)
    times = Counter(name for names in layers.values() for name in names if name in wanted)
    assert times == dict.fromkeys(wanted, 1)
    by_names = layers_of(quantized, resnet.original)  # by what is left in names: less, and nothing wrong
    assert all(set(names) <= set(layers[label]) for label, names in by_names.items() if names)
