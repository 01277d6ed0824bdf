"""What `quantize-static` does with its data and its parameters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import IncompatibleRecipe, InvalidDataset, InvalidParams
from tests.workers.engines.networks import ArraySamples, masked_attention
from workers.calibration import Histogram, Plan, collect_ranges, entropy_cut, percentile_cut
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_proof import open_session


def scales(model) -> dict[str, float]:
    """The scale of each quantized activation, by the tensor's name."""
    proto = model.load_onnx()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {
        node.input[0]: float(constants[node.input[1]])
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and constants[node.input[1]].ndim == 0
    }


def calibrate(model, arrays, method="minmax", tensors=("images",), **more):
    plan = Plan(
        **{"bins": 2048, "percentile": 99.9, "samples": None, "unsigned": True, **more},
        tensors=tensors,
        method=method,
    )
    return collect_ranges(model, ArraySamples(arrays), plan, lambda done, total, message: None)


def test_weights_are_signed_and_activations_unsigned_by_default(cnn, simplified, apply):
    proto = apply("quantize-static", simplified, cnn.train)[0].load_onnx()
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}

    zero_points = {constants[n.input[2]].data_type for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    assert zero_points == {TensorProto.UINT8}
    weights = [t for t in constants.values() if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 3


def test_per_channel_gives_a_scale_a_channel(cnn, simplified, apply):
    for per_channel, sizes in ((True, {16, 32, 10}), (False, set())):
        proto = apply("quantize-static", simplified, cnn.train, per_channel=per_channel)[0].load_onnx()
        scales_ = {
            t.dims[0] for t in proto.graph.initializer if t.name.endswith("_scale") and len(t.dims)
        } - {1}
        assert scales_ == sizes


def test_an_outlier_widens_minmax_but_not_percentile_or_entropy(cnn, simplified, apply):
    images = cnn.images[:200].copy()
    images[7, 0, 3, 3] = 1000.0
    data = ArraySamples({"images": images})

    wide = scales(apply("quantize-static", simplified, data, method="minmax")[0])["images"]
    percentile = scales(apply("quantize-static", simplified, data, method="percentile", percentile=99.9)[0])[
        "images"
    ]
    entropy = scales(apply("quantize-static", simplified, data, method="entropy")[0])["images"]

    assert wide == pytest.approx(1000 / 255, rel=1e-3)
    assert percentile < wide / 100
    assert entropy < wide / 2


def test_every_method_keeps_the_answers(cnn, simplified, apply, signal):
    expected = open_session(cnn.model).run(None, {"images": cnn.images})[0]
    for method, least in (("minmax", 25), ("percentile", 20), ("entropy", 12)):
        model, context = apply("quantize-static", simplified, cnn.train, method=method)
        got = open_session(model).run(None, {"images": cnn.images})[0]
        assert signal(expected, got) > least, method
        assert np.mean(got.argmax(1) == cnn.labels) > np.mean(expected.argmax(1) == cnn.labels) - 0.03, method
        assert context.facts["calibration"]["samples"] == cnn.train.count


def test_excluded_nodes_and_operators_stay_in_fp32_and_are_listed(cnn, simplified, apply):
    convolutions = [n.name for n in simplified.load_onnx().graph.node if n.op_type == "Conv"]
    _, context = apply(
        "quantize-static", simplified, cnn.train, excluded_nodes=convolutions[:1], excluded_operators=["Gemm"]
    )

    assert context.facts["quantized"] == {"Conv": 2}
    left = {
        (entry["operator"], entry["reason"], tuple(entry["nodes"])) for entry in context.facts["left_out"]
    }
    assert ("Conv", "excluded by name", (convolutions[0],)) in left
    assert any(kind == "Gemm" and reason == "excluded by operator type" for kind, reason, _ in left)


def test_an_exclusion_that_names_no_node_is_a_mistake(cnn, simplified, apply):
    name = next(n.name for n in simplified.load_onnx().graph.node if n.op_type == "Conv")

    with pytest.raises(InvalidParams) as refusal:
        apply("quantize-static", simplified, cnn.train, excluded_nodes=[name + "x"])
    assert refusal.value.param == "excluded_nodes"
    assert name in refusal.value.hint


def test_nothing_to_quantize_is_refused(tmp_path, apply):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"], name="erf")], "g", [x], [y])
    model = save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m"
    )

    with pytest.raises(IncompatibleRecipe):
        apply("quantize-static", model, ArraySamples({"x": np.zeros((2, 4), np.float32)}))


def test_only_as_many_samples_as_asked_are_read(cnn, simplified, apply):
    images = np.concatenate([cnn.images[:5], cnn.images[5:10] * 50])
    few = scales(apply("quantize-static", simplified, ArraySamples({"images": images}), samples=5)[0])[
        "images"
    ]

    assert few == pytest.approx(float(cnn.images[:5].max()) / 255, rel=1e-3)


def test_the_order_of_samples_does_not_matter(cnn, simplified, apply):
    for method in ("minmax", "percentile", "entropy"):
        one, other = (
            apply("quantize-static", simplified, ArraySamples({"images": images}), method=method)[0].digest
            for images in (cnn.images[:40], cnn.images[39::-1])
        )
        assert one == other


def test_nan_in_a_sample_names_the_sample_and_the_tensor(cnn, simplified, apply):
    images = cnn.images[:4].copy()
    images[2] = np.inf

    with pytest.raises(InvalidDataset) as refusal:
        apply("quantize-static", simplified, ArraySamples({"images": images}))
    assert "sample 2" in refusal.value.detail


def test_ranges_are_the_extremes_and_inputs_count_too(cnn):
    model = cnn.model.load_onnx()
    proto = onnx.shape_inference.infer_shapes(model)

    low, high = calibrate(proto, {"images": cnn.images[:30] - 0.5})["images"]
    assert (low, high) == (float((cnn.images[:30] - 0.5).min()), float((cnn.images[:30] - 0.5).max()))


def test_a_model_of_a_fixed_batch_is_calibrated_on_all_samples(cnn):
    model = cnn.model.load_onnx()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    images = cnn.images[:10].copy()
    images[9, 0, 0, 0] = 77.0  # falls into a batch that is not full

    assert calibrate(model, {"images": images})["images"][1] == 77.0


def test_a_model_without_a_batch_axis_takes_one_sample_at_a_time(tmp_path):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    ranges = calibrate(model, {"x": np.arange(12, dtype=np.float32).reshape(4, 3) - 2}, tensors=("x", "y"))
    assert ranges == {"x": (-2.0, 9.0), "y": (0.0, 9.0)}


def test_percentiles_agree_with_numpy():
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[:1000] = 0
    largest = float(np.abs(values).max())
    histogram = Histogram(np.zeros(4096, dtype=np.int64))
    for part in np.split(values, 10):
        histogram.add(part, largest)

    for percentile in (90.0, 99.0, 99.9):
        expected = np.percentile(np.abs(values), percentile)
        assert percentile_cut(histogram, largest, percentile) == pytest.approx(
            expected, abs=2 * largest / 4096
        )
    assert percentile_cut(histogram, largest, 100.0) == pytest.approx(largest)


def test_entropy_keeps_a_uniform_and_cuts_a_long_tail():
    rng = np.random.default_rng(0)
    uniform = np.histogram(rng.random(50_000), 2048, (0, 1))[0]
    assert entropy_cut(uniform, 1.0, 128) > 0.97
    body = np.abs(rng.standard_normal(50_000))
    tailed = np.histogram(np.append(body, 40.0), 2048, (0, 40))[0]
    assert entropy_cut(tailed, 40.0, 128) < 15


def test_signature_and_batches_survive_control_flow(tmp_path, apply, cnn):
    """A Relu that a range makes needless may be read inside an If: it must stay."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), "w")
    out = helper.make_tensor_value_info("branch_y", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([helper.make_node(kind, ["r"], ["branch_y"], name=name)], name, [], [out])
        for name, kind in (("then_branch", "Neg"), ("else_branch", "Identity"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("If", ["c"], ["y"], name="if", **branches),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [weight]
    )
    model = save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m"
    )
    data = rng.standard_normal((8, 1, 4)).astype(np.float32)

    quantized, _ = apply("quantize-static", model, ArraySamples({"x": data, "c": np.ones(8, bool)}))

    assert signature_of(quantized.load_onnx()) == signature_of(model.load_onnx())
    for flag in (True, False):
        feeds = {"x": data[0], "c": np.array(flag)}
        before, after = (open_session(m).run(None, feeds)[0] for m in (model, quantized))
        np.testing.assert_allclose(after, before, atol=0.15)


MEMORY = """
import resource, sys, tempfile
from pathlib import Path
import numpy as np
from app.catalog.passes import PASSES
from workers import passes
from workers.context import PassContext
from workers.model_handle import ModelHandle

root, count, method = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Stream:
    digest, synthetic, inputs = "", False, {"images": ("float32", (1, 8, 8))}
    def __init__(self, count):
        self.count = count
    def batches(self, size, limit=None):
        rng = np.random.default_rng(0)
        for start in range(0, self.count, size):
            yield {"images": rng.random((min(size, self.count - start), 1, 8, 8), dtype=np.float32)}, None

def run(samples):
    context = PassContext(out=Path(tempfile.mkdtemp()), samples={"calibration": samples})
    params = PASSES["quantize-static"].params(method=method)
    passes.registry.get("quantize-static")(ModelHandle(root, "model.onnx", "onnx", ""), params, context)

run(Stream(16))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(Stream(count))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_memory_does_not_grow_with_the_number_of_samples(method, simplified):
    def grown(count: int) -> int:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEMORY, str(simplified.root), str(count), method],
            check=True, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        return int(done.stdout)

    few, many = grown(200), grown(4000)
    activations = 4 * (1 + 16 + 16 + 16) * 64 * 3800  # what keeping every further sample's tensors would take
    assert many - few < activations / 4


MASKED = {"lowest": np.finfo(np.float32).min, "infinite": -np.inf, "ten-thousand": -10_000.0}


@pytest.mark.parametrize("fill", MASKED.values(), ids=MASKED)
@pytest.mark.parametrize("operators", [None, ("MatMul", "Add", "Where", "Softmax")], ids=["default", "named"])
def test_attention_that_is_masked_stays_attention(apply, signal, tmp_path: Path, fill, operators):
    model = masked_attention(tmp_path / "m", fill)
    random = np.random.default_rng(1)
    data = {
        "rows": random.standard_normal((32, 6, 16)).astype(np.float32),
        "kept": np.arange(6) < random.integers(1, 7, size=(32, 1)),
    }
    quantized, context = apply("quantize-static", model, ArraySamples(data), operators=operators)

    assert context.facts["quantized"] == {"MatMul": 5}
    before, after = (open_session(handle).run(None, data)[0] for handle in (model, quantized))
    assert signal(before, after) > 25
