"""ONNX Runtime on CPUs beyond the contract: its parameters, its facts, and what is said of them."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCpuParams
from app.errors import UnsupportedOperator
from workers.model_handle import ModelHandle
from workers.onnx_files import GRAPH_ALLOWANCE_BYTES, save_onnx
from workers.runtimes import onnxruntime_cpu, onnxruntime_session, registry
from workers.runtimes.why import why

RUNTIME = registry.get("onnxruntime-cpu")


@pytest.fixture
def built(tmp_path: Path):
    """`built(model, **params)`: an engine."""
    count = 0

    def build(model, **params):
        nonlocal count
        count += 1
        out = tmp_path / f"engine{count}"
        out.mkdir()
        return RUNTIME.build(model, OnnxRuntimeCpuParams(**params), out)

    return build


def test_all_convolutions_of_a_statically_quantized_network_are_fused(cnn, simplified, apply, built):
    quantized, context = apply("quantize-static", simplified, cnn.train)
    facts = built(quantized).facts

    assert context.facts["quantized"] == {"Conv": 3, "Gemm": 1}
    assert facts["operators"]["QLinearConv"] == 3
    assert facts["operators"]["QGemm"] == 1
    assert facts["compute"] == {"int8": 4}
    assert facts["unfused"] == {"count": 0, "nodes": []}


def test_signed_activations_leave_convolutions_unfused_and_the_facts_say_so(cnn, simplified, apply, built):
    quantized, _ = apply(
        "quantize-static", simplified, cnn.train, activation_type="int8", weight_type="uint8"
    )
    baseline, engine = built(cnn.model), built(quantized)

    assert engine.facts["unfused"]["count"] > 0
    sentences = why(baseline.facts, engine.facts, {"speedup": {"verdict": "slower"}})
    assert any("not fused" in text and str(engine.facts["unfused"]["count"]) in text for text in sentences)


def test_dynamic_convolutions_are_explained(cnn, simplified, apply, built):
    quantized, _ = apply("quantize-dynamic", simplified, operators=["Conv", "MatMul"])
    engine = built(quantized)

    assert engine.facts["convolutions"] == {"int8-dynamic": 3}
    sentences = why(built(cnn.model).facts, engine.facts, {"speedup": {"verdict": "slower"}})
    assert any("3 convolutions run as ConvInteger" in text for text in sentences)
    assert any("anew on every call" in text for text in sentences)
    assert any("small" in text for text in sentences)


def test_half_precision_is_explained(cnn, apply, built):
    half, _ = apply("to-fp16", cnn.model)
    folded, kept = built(half), built(half, graph_optimization="extended")

    for engine in (folded, kept):
        assert engine.facts["compute"] == {"fp32": 4}
        sentences = why(built(cnn.model).facts, engine.facts, {"speedup": {"verdict": "no_difference"}})
        assert any("compute 4 compute nodes in fp32" in text for text in sentences)
        returned = engine.facts["half_weights"] < engine.facts["model_half_weights"] / 2
        assert any("back into fp32" in text for text in sentences) == returned
    assert kept.facts["half_weights"] > kept.facts["model_half_weights"] / 2


def test_nothing_changed_is_said(cnn, built):
    first, second = built(cnn.model), built(cnn.model)

    sentences = why(first.facts, second.facts, {"speedup": {"verdict": "no_difference"}})
    assert any("same nodes as the baseline" in text for text in sentences)
    assert not any(
        "small" in text for text in why(first.facts, second.facts, {"speedup": {"verdict": "faster"}})
    )


def test_block_quantized_weights_are_counted(mlp, apply, built):
    quantized, _ = apply("quantize-weights", mlp.model, minimum_weights=0, bits=8)
    engine = built(quantized)

    assert engine.facts["compute"] == {"weights-8bit": 3}
    assert any("unpack" in text for text in why(built(mlp.model).facts, engine.facts, {}))


def test_the_optimization_level_is_the_users(cnn, built):
    plain, basic, full = (built(cnn.model, graph_optimization=level) for level in ("none", "basic", "all"))

    domains = [
        {node.domain for node in onnx.load(str(engine.path)).graph.node} for engine in (plain, basic, full)
    ]
    assert domains[0] == {""}
    assert domains[1] <= {"", "ai.onnx"}
    assert "com.microsoft.nchwc" in domains[2] or "com.microsoft" in domains[2]


def test_only_hardware_layouts_bind_an_engine_to_cpu_features(cnn, built):
    params = OnnxRuntimeCpuParams()
    portable, bound = built(cnn.model, graph_optimization="extended"), built(cnn.model)

    assert RUNTIME.validity(portable, params)["cpu_features"] == []
    if bound.facts["hardware_layout"]:
        assert RUNTIME.validity(bound, params)["cpu_features"]
    assert RUNTIME.validity(bound, params)["version"] == onnxruntime.__version__


def test_parameters_reach_the_session(monkeypatch, cnn, built):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path, options, providers, **others):
        seen.append((options, providers))
        return real(path, options, providers=providers, **others)

    monkeypatch.setattr(onnxruntime_cpu, "InferenceSession", spy)
    built(
        cnn.model, threads=2, inter_op_threads=3, execution_mode="parallel", allow_spinning=False,
        memory_arena=False, memory_pattern=False, denormals_as_zero=True,
    )  # fmt: skip

    options, providers = seen[0]
    assert providers == ["CPUExecutionProvider"]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 3)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def test_zero_threads_are_those_that_the_process_may_use(cnn, built):
    validity = RUNTIME.validity(built(cnn.model), OnnxRuntimeCpuParams(threads=0))

    assert validity["threads"] == onnxruntime_cpu.usable_processors() >= 1


def test_weights_over_the_limit_lie_beside_the_graph(tmp_path, monkeypatch, cnn, built):
    model = cnn.model.load_onnx()
    apart = save_onnx(model, tmp_path / "apart", limit_bytes=GRAPH_ALLOWANCE_BYTES)
    assert (apart.root / "model.onnx.data").stat().st_size > 4096
    monkeypatch.setattr(onnxruntime_session, "PROTOBUF_LIMIT_BYTES", GRAPH_ALLOWANCE_BYTES)

    engine = built(apart)

    assert (engine.root / "model.onnx.data").is_file()
    with pytest.raises(UnsupportedOperator, match="at most 2 GB") as refusal:
        built(apart, engine_format="ort")
    assert refusal.value.param == "engine_format"
    expected = RUNTIME.load(built(cnn.model), OnnxRuntimeCpuParams()).run({"images": cnn.images})
    got = RUNTIME.load(engine, OnnxRuntimeCpuParams()).run({"images": cnn.images})
    np.testing.assert_array_equal(got["logits"], expected["logits"])


def test_nodes_inside_control_flow_are_counted(tmp_path, built):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    branches = {}
    for name, kind in (("then_branch", "MatMul"), ("else_branch", "Add")):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        node = helper.make_node(kind, ["x", "w"], [out.name], name=f"{name}_node")
        branches[name] = helper.make_graph([node], name, [], [out])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], name="if", **branches)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    facts = built(save_onnx(model, tmp_path / "if")).facts

    assert facts["compute"] == {"fp32": 1}
    assert facts["operators"]["Add"] == 1


def test_an_engine_in_ort_format_computes_the_same(cnn, built):
    plain, engine = built(cnn.model), built(cnn.model, engine_format="ort")
    assert [file.name for file in engine.root.iterdir()] == ["model.ort"]
    assert engine.facts == plain.facts
    feeds = {"images": cnn.images}
    expected = RUNTIME.load(plain, OnnxRuntimeCpuParams()).run(feeds)
    got = RUNTIME.load(engine, OnnxRuntimeCpuParams(engine_format="ort")).run(feeds)
    np.testing.assert_array_equal(got["logits"], expected["logits"])


@pytest.mark.parametrize("engine_format", ["onnx", "ort"])
def test_an_engine_holds_weights_that_lay_beside_its_model(cnn, built, tmp_path: Path, engine_format: str):
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save_model(
        cnn.model.load_onnx(),
        str(apart / "net.onnx"),
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=256,
    )
    model = ModelHandle(apart, "net.onnx", "onnx", "0" * 64)
    engine = built(model, engine_format=engine_format)
    shutil.rmtree(apart)
    feeds = next(cnn.train.batches(4))[0]
    expected = RUNTIME.load(built(cnn.model), OnnxRuntimeCpuParams()).run(feeds)
    found = RUNTIME.load(engine, OnnxRuntimeCpuParams()).run(feeds)
    assert [path.name for path in engine.root.iterdir()] == [engine.entry]
    np.testing.assert_array_equal(found["logits"], expected["logits"])


def widths(first: int, second: int, groups: int = 1) -> onnx.ModelProto:
    """Three convolutions of so many channels, the last two in groups."""
    weights = {
        "a": (first, 3, 3, 3),
        "b": (second, first // groups, 3, 3),
        "c": (second, second // groups, 3, 3),
    }
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", [taken, name], [f"after {name}"], name=name, pads=[1, 1, 1, 1], group=1 if name == "a" else groups)
        for taken, name in (("x", "a"), ("after a", "b"), ("after b", "c"))
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("after c", TensorProto.FLOAT, ["n", second, 8, 8])],
        [numpy_helper.from_array(random.random(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_channels_that_fill_no_blocks_are_explained(tmp_path, built):
    even, odd = (save_onnx(widths(*given), tmp_path / str(given)) for given in ((32, 32), (29, 27)))
    baseline, engine = built(even), built(odd)

    assert baseline.facts["unblocked"]["count"] == 0
    assert engine.facts["unblocked"] == {"count": 2, "nodes": ["b", "c"]}
    (said,) = [text for text in why(baseline.facts, engine.facts, {}) if "multiples of 4" in text]
    assert "2 convolutions (b, c …)" in said
    assert not any("multiples of 4" in text for text in why(engine.facts, baseline.facts, {}))


def test_depthwise_convolutions_that_are_not_faster_are_explained(tmp_path, built):
    whole, apart = (save_onnx(widths(32, 32, groups), tmp_path / str(groups)) for groups in (1, 32))
    baseline, engine = built(whole), built(apart)

    assert (baseline.facts["depthwise"], engine.facts["depthwise"]) == (0, 2)
    slower, faster = (
        why(baseline.facts, engine.facts, {"speedup": {"verdict": verdict}})
        for verdict in ("slower", "faster")
    )
    assert any("2 convolutions have become depthwise" in text for text in slower)
    assert not any("depthwise" in text for text in faster)
