"""Each rule on profiles that call for it, and on those that do not; every request is one that the service takes."""

import re
from pathlib import Path

import pytest

from app.catalog.passes import PASSES
from app.jobs.schemas import OptimizeRequest, read_request
from app.profiles.schemas import Advice, Phase
from tests.workers.profiling.cases import (
    GPU_PEAKS,
    PEAKS,
    case,
    convolution,
    facts,
    given,
    layer,
    one,
    product,
)
from workers.profiling.advice import registry
from workers.profiling.advising import Case, advise, check

DOCS = Path(__file__).parents[3] / "docs" / "profiling.md"
TIMES = {"p50_ms": 4.0, "low_ms": 3.9, "high_ms": 4.1}

BUSY = convolution("busy", 8.0, 128, 128, 3, 50)  # 7.4 ms at the peak
WIDE = convolution("wide", 2.0, 256, 256, 1, 36)  # 1.7 ms
FIRST = convolution("first", 0.5, 32, 3, 3, 112)
DEPTHWISE = convolution("each", 1.0, 256, 256, 3, 36, groups=256)


def inside(piece: Advice, gain: float) -> bool:
    """Whether a gain lies in a prediction's interval."""
    assert piece.gain is not None
    return piece.gain.low <= gain <= piece.gain.high


def held(found: Case, piece: Advice) -> OptimizeRequest:
    """The request of a piece, as the service reads it, held against the catalog."""
    assert piece.request is not None
    read = read_request(piece.request)
    assert isinstance(read, OptimizeRequest)
    check(piece.request, found.model)
    return read


def test_every_rule_is_described_and_every_described_one_is_there() -> None:
    described = re.findall(
        r"^\| `([a-z0-9-]+)` \| .+ \| .+ \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    bounds = {"bound", "compute", "memory", "overhead"}
    assert set(described) - bounds == set(registry.all())
    assert all(rule.__doc__ for rule in registry.all().values())


def test_advice_is_numbered_by_its_gain() -> None:
    found = advise(case([BUSY, WIDE, FIRST], threads={1: TIMES, 2: {**TIMES, "p50_ms": 9.0}}))
    assert [piece.number for piece in found] == list(range(1, len(found) + 1))
    gains = [piece.gain.value for piece in found if piece.gain]
    assert gains == sorted(gains, reverse=True)
    assert {piece.rule for piece in found} == {"quantize", "depthwise-separable", "prune-channels"}


def test_a_network_without_peaks_gets_no_advice_that_needs_them() -> None:
    rows = [(one[0].model_copy(update={"floor_ms": None, "bound": None}), one[1]) for one in (BUSY, WIDE)]
    assert advise(case(rows, peaks=None)) == []


def test_quantization_is_advised_for_layers_of_many_channels() -> None:
    found = case([BUSY, WIDE, FIRST, DEPTHWISE, layer("pool", 0.5, "MaxPool")])
    piece = one(found, "quantize")
    assert piece.layers == ["busy", "wide"]
    assert inside(piece, 11.5 / (10 / 4 * 1.2 + 2.0))
    reasons = {entry["layer"]: entry["reason"] for entry in piece.evidence["not_gaining"]}
    assert reasons["first"] == "3 input channels are too few for 8-bit kernels"
    assert "depthwise" in reasons["each"]
    request = held(found, piece)
    assert [step.name for step in request.recipe.passes] == ["simplify", "quantize-static"]  # type: ignore[union-attr]
    assert request.options.allow_synthetic
    assert "generated data" in piece.why
    assert piece.costs_accuracy


def test_calibration_data_of_the_job_are_used() -> None:
    found = case([BUSY], data={"calibration": "dat_some"})
    request = held(found, one(found, "quantize"))
    assert request.recipe.passes[1].inputs == {"calibration": "dat_some"}  # type: ignore[union-attr]
    assert not request.options.allow_synthetic
    assert "generated" not in one(found, "quantize").why


@pytest.mark.parametrize(
    "found",
    [
        case([BUSY], model=facts(["Conv"]).__class__("onnx", "int8", {"Conv": 1}, 1, (), ())),
        case([BUSY], recipe=[{"pass": "quantize-static", "params": {}, "inputs": {}}]),
        case([BUSY], peaks=PEAKS.model_copy(update={"flops_per_s": {"fp32": 1e11, "int8": 1.1e11}})),
        case([BUSY], runtime="torch-eager", model=facts(["conv2d"], "torch-export")),
        case([layer("pool", 1.0, "MaxPool")]),
        case([DEPTHWISE]),
    ],
    ids=["is-int8", "was-quantized", "no-instructions", "no-kernels", "nothing-to-multiply", "depthwise"],
)
def test_quantization_is_not_advised_where_it_brings_nothing(found: Case) -> None:
    assert given(found, "quantize") == []


def test_transformers_are_quantized_on_the_fly_and_their_attention_is_not() -> None:
    scores = layer("scores", 1.0, "MatMul", 2 * 4 * 128 * 128 * 64, output=[1, 4, 128, 128])
    entry = {
        "name": "scores",
        "kind": "MatMul",
        "parameters": 0,
        "flops": 1000,
        "output": [4, 1, 1],
        "savings": {},
    }
    found = case([product("up", 6.0, 128, 512, 4096), (scores, entry), layer("softmax", 0.5, "Softmax")])
    piece = one(found, "quantize")
    assert piece.layers == ["up"]
    assert held(found, piece).recipe.passes[1].name == "quantize-dynamic"  # type: ignore[union-attr]
    assert not held(found, piece).options.allow_synthetic


def test_activations_that_no_8_bit_kernel_fuses_widen_the_interval() -> None:
    rows = [BUSY, WIDE, layer("gate", 1.0, "Sigmoid")]
    plain, gated = one(case(rows, model=facts(["Conv"])), "quantize"), one(case(rows), "quantize")
    assert plain.gain is not None
    assert gated.gain is not None
    assert gated.gain.low < plain.gain.low
    assert gated.gain.high == plain.gain.high
    assert "Sigmoid stay" in gated.why
    assert "Sigmoid" not in plain.why


def test_half_precision_is_what_the_target_has_for_it() -> None:
    found = case([BUSY, WIDE], runtime="openvino-cpu")
    piece = one(found, "half-precision")
    assert held(found, piece).targets[0].params["inference_precision"] == "bf16"
    assert inside(piece, 10 / (10 / 2 * 1.1))
    assert (
        given(case([BUSY], runtime="openvino-cpu", params={"inference_precision": "bf16"}), "half-precision")
        == []
    )
    assert given(case([BUSY]), "half-precision") == []  # computes bf16 in fp32
    torch = case([BUSY], runtime="torch-inductor-cpu", model=facts(["conv2d"], "torch-export"))
    assert held(torch, one(torch, "half-precision")).recipe.passes[0].params == {"dtype": "bf16"}  # type: ignore[union-attr]
    gpu = case([BUSY], runtime="onnxruntime-cuda", peaks=GPU_PEAKS)
    assert held(gpu, one(gpu, "half-precision")).recipe.passes[-1].name == "to-fp16"  # type: ignore[union-attr]


def test_tf32_is_advised_where_tensor_cores_are_idle() -> None:
    found = case([BUSY, layer("pool", 1.0, "MaxPool")], runtime="onnxruntime-cuda", peaks=GPU_PEAKS)
    piece = one(found, "tf32")
    assert held(found, piece).targets[0].params["tf32"] is True
    assert piece.layers == ["busy"]
    assert given(case([BUSY], "onnxruntime-cuda", {"tf32": True}, peaks=GPU_PEAKS), "tf32") == []
    assert given(case([BUSY]), "tf32") == []


def test_heavy_convolutions_are_replaced_by_two_cheap_ones() -> None:
    found = case([BUSY, WIDE, FIRST])
    piece = one(found, "depthwise-separable")
    assert piece.layers == ["busy"]  # a pointwise one has nothing to separate, and the first has few channels
    left = 0.12 * 7.37  # of its operations, at the peak
    assert inside(piece, 10.5 / (2.5 + left * 1.3))
    assert held(found, piece).recipe.passes[0].name == "depthwise-separable"  # type: ignore[union-attr]
    assert "distill" in piece.why
    assert given(case([WIDE, FIRST, DEPTHWISE]), "depthwise-separable") == []


def test_new_layers_are_not_taken_to_be_far_better_than_those_that_are_there() -> None:
    slow = convolution("slow", 60.0, 128, 128, 3, 50)  # an eighth of what the device could do
    piece = one(case([slow]), "depthwise-separable")
    assert inside(piece, 1 / 0.13)  # as many times faster as it has operations less
    assert piece.gain is not None
    assert piece.gain.high < 60 / (0.12 * 7.37)  # what kernels at the peak would bring


def test_channels_are_removed_where_arithmetic_bounds_layers() -> None:
    found = case([BUSY, WIDE])
    piece = one(found, "prune-channels")
    assert inside(piece, 2.0)
    assert held(found, piece).recipe.passes[0].params["to"] == 0.5  # type: ignore[union-attr]
    slow = convolution("slow", 60.0, 128, 128, 3, 50)  # something else than arithmetic takes its time
    assert given(case([slow]), "prune-channels") == []
    row, entry = convolution("busy", 8.0, 128, 128, 3, 50)
    entry["savings"]["prune-channels"] = {"channels": 128, "units": 0}  # they stay, as those of an output
    assert given(case([(row, entry)]), "prune-channels") == []


def test_an_odd_number_of_channels_is_rounded_where_it_costs_the_layout() -> None:
    rows = [convolution("odd", 10.0, 50, 30, 3, 112), convolution("even", 2.0, 64, 64, 1, 80)]
    found = case(rows, engine={"unblocked": {"count": 1, "nodes": ["odd"]}})
    piece = one(found, "round-channels")
    assert piece.layers == ["odd"]
    params = held(found, piece).recipe.passes[0].params  # type: ignore[union-attr]
    assert (params["round_to"], params["scope"]) == (4, "per-layer")
    assert 2 / 30 <= params["ratio"] < 3 / 30  # two channels of 30, and so two of 50
    assert inside(piece, 12 / 9)
    assert given(case(rows, engine={"unblocked": {"count": 0, "nodes": []}}), "round-channels") == []
    assert given(case(rows[1:], engine=found.engine), "round-channels") == []


def test_attention_in_single_operators_is_fused() -> None:
    rows = [
        product("up", 6.0, 128, 512, 4096),
        *(layer(name, 0.5, name) for name in ("Softmax", "Transpose", "Where")),
    ]
    found = case(rows)
    piece = one(found, "fuse-transformer")
    assert piece.layers == ["Softmax", "Transpose", "Where"]
    assert inside(piece, 7.5 / 6.9)
    assert [step.name for step in held(found, piece).recipe.passes] == ["simplify", "fuse-transformer"]  # type: ignore[union-attr]
    fused = [*rows, layer("attention", 1.0, "MultiHeadAttention")]
    assert given(case(fused), "fuse-transformer") == []
    assert given(case(rows, "tensorrt", peaks=GPU_PEAKS), "fuse-transformer") == []


def test_norms_and_activations_that_stand_apart_are_fused_by_the_runtime() -> None:
    slow = convolution("slow", 12.0, 128, 128, 3, 50)
    rows = [slow, layer("norm", 1.0, "BatchNormalization"), layer("relu", 1.0, "Relu")]
    found = case(rows, params={"graph_optimization": "none"})
    piece = one(found, "fusion")
    assert held(found, piece).targets[0].params["graph_optimization"] == "all"
    assert piece.layers == ["slow", "norm", "relu"]
    assert inside(piece, 14 / 9)
    assert given(case(rows), "fusion") == []
    # networks without convolutions were slower with all fusions
    products = [product("up", 6.0, 128, 512, 4096), layer("relu", 1.0, "Relu")]
    assert given(case(products, params={"graph_optimization": "none"}), "fusion") == []


def test_signed_activations_are_told_where_they_leave_layers_unfused() -> None:
    rows = [BUSY, layer("dequantize", 1.0, "DequantizeLinear")]
    unfused = {"unfused": {"count": 1, "nodes": ["busy"]}}
    step = {"pass": "quantize-static", "params": {"activation_type": "int8"}, "inputs": {}}
    found = case(rows, recipe=[step], engine=unfused)
    piece = one(found, "unfused-quantization")
    assert held(found, piece).recipe.passes[0].params["activation_type"] == "uint8"  # type: ignore[union-attr]
    assert inside(piece, 9 / 2.5)
    elsewhere = one(case(rows, engine=unfused), "unfused-quantization")
    assert elsewhere.request is None
    assert "quantize-static" in elsewhere.why
    assert given(case(rows, engine={"unfused": {"count": 0, "nodes": []}}), "unfused-quantization") == []


def test_reorders_that_take_time_are_told() -> None:
    rows = [BUSY, layer("reorder", 1.0, "ReorderInput", layers=[])]
    assert one(case(rows), "reorders").request is None
    gpu = case([BUSY, layer("t", 1.0, "Transpose", layers=[])], "onnxruntime-cuda", peaks=GPU_PEAKS)
    assert held(gpu, one(gpu, "reorders")).targets[0].params["prefer_nhwc"] is True
    assert given(case([BUSY, layer("t", 1.0, "Transpose")]), "reorders") == []  # the model's own


def test_nodes_that_fell_back_to_the_cpu_are_told() -> None:
    rows = [
        (BUSY[0].model_copy(update={"place": "CUDAExecutionProvider"}), BUSY[1]),
        layer("odd", 2.0, "NonMaxSuppression", place="CPUExecutionProvider"),
        layer("copy", 0.5, "MemcpyToHost"),
    ]
    found = case(rows, "onnxruntime-cuda", peaks=GPU_PEAKS, offered=frozenset({"tensorrt"}))
    piece = one(found, "cpu-fallback")
    assert (piece.layers, piece.evidence["operators"]) == (["odd", "copy"], ["NonMaxSuppression"])
    assert held(found, piece).targets[0].runtime == "tensorrt"
    alone = one(case(rows, "onnxruntime-cuda", peaks=GPU_PEAKS), "cpu-fallback")
    assert alone.request is None
    assert "cpu_nodes=refuse" in alone.why
    assert given(case(rows), "cpu-fallback") == []


def test_many_tiny_calls_are_told() -> None:
    rows = [BUSY, *(layer(f"tiny{number}", 0.005, "Add") for number in range(1000))]
    found = case(rows, offered=frozenset({"openvino-cpu"}))
    piece = one(found, "launch-bound")
    assert piece.evidence["calls"] == 1000
    assert held(found, piece).targets[0].runtime == "openvino-cpu"
    assert one(case(rows), "launch-bound").request is None
    fixed = facts(["Conv"]).__class__(
        "onnx", "fp32", {"Conv": 1}, 1, ({"name": "x", "dtype": "float32", "shape": [1, 3]},), ()
    )
    gpu = case(rows, "onnxruntime-cuda", peaks=GPU_PEAKS, model=fixed)
    assert held(gpu, one(gpu, "launch-bound")).targets[0].params["cuda_graph"] is True
    assert given(case([BUSY, *rows[1:5]]), "launch-bound") == []


def test_another_runtime_is_worth_a_try_where_kernels_are_far_from_their_floors() -> None:
    slow = convolution("slow", 20.0, 128, 128, 3, 50)
    found = case([slow], offered=frozenset({"openvino-cpu"}))
    piece = one(found, "another-runtime")
    assert held(found, piece).targets[0].runtime == "openvino-cpu"
    assert inside(piece, 20 / 10)
    assert given(case([slow]), "another-runtime") == []  # the machine has none
    assert given(case([BUSY, WIDE], offered=frozenset({"openvino-cpu"})), "another-runtime") == []


def test_what_eager_pytorch_leaves_apart_others_fuse() -> None:
    rows = [BUSY, layer("norm", 3.0, "BatchNorm2d"), layer("relu", 2.0, "aten::relu")]
    found = case(
        rows, "torch-eager", model=facts(["conv2d"], "torch-export"), offered=frozenset({"onnxruntime-cpu"})
    )
    piece = one(found, "another-runtime")
    assert held(found, piece).targets[0].runtime == "onnxruntime-cpu"
    assert inside(piece, 13 / 9)


def test_threads_follow_what_was_measured() -> None:
    slower = {"p50_ms": 5.0, "low_ms": 4.9, "high_ms": 5.1}
    found = case([BUSY], threads={1: slower, 2: TIMES}, threads_used=1)
    piece = one(found, "threads")
    assert held(found, piece).targets[0].params["threads"] == 2
    assert piece.gain is not None
    assert (piece.gain.low, piece.gain.value, piece.gain.high) == pytest.approx((4.9 / 4.1, 1.25, 5.1 / 3.9))
    assert given(case([BUSY], threads={1: TIMES, 2: slower}), "threads") == []
    unsure = {"p50_ms": 4.3, "low_ms": 3.0, "high_ms": 5.0}
    assert given(case([BUSY], threads={1: unsure, 2: TIMES}), "threads") == []


def test_the_knee_of_the_batch_curve_is_told() -> None:
    times = {size: {"p50_ms": ms, "low_ms": ms, "high_ms": ms} for size, ms in ((1, 1.0), (4, 2.0), (8, 3.9))}
    piece = one(case([BUSY], batches=times), "batch")
    assert piece.evidence["knee"] == 4
    assert (piece.request, piece.gain) == (None, None)
    assert given(case([BUSY], batches=times, batch=8), "batch") == []
    flat = {size: {"p50_ms": 1.0 * size, "low_ms": 1, "high_ms": 1} for size in (1, 4)}
    assert given(case([BUSY], batches=flat), "batch") == []


def test_a_starving_network_gets_a_better_loader() -> None:
    phases = [Phase(name="loader", mean_ms=5, share=0.5), Phase(name="forward", mean_ms=5, share=0.5)]
    step = {
        "pass": "finetune",
        "params": {"precision": "bf16", "loader": {"mode": "fixed", "workers": 0}},
        "inputs": {"train": "dat_some"},
    }
    found = case([BUSY], phases=phases, recipe=[step], model=facts(["conv2d"], "torch-export"))
    piece = one(found, "loader")
    assert held(found, piece).recipe.passes[0].params["loader"]["mode"] == "auto"  # type: ignore[union-attr]
    assert inside(piece, 1.8)
    fed = [Phase(name="loader", mean_ms=0.1, share=0.01), Phase(name="forward", mean_ms=9.9, share=0.99)]
    assert given(case([BUSY], phases=fed, recipe=[step]), "loader") == []
    settled = {**step, "params": {"loader": {"mode": "auto", "cache": "memory"}}}
    assert one(case([BUSY], phases=phases, recipe=[settled]), "loader").request is None


def test_training_in_fp32_is_told_of_bf16() -> None:
    phases = [Phase(name="forward", mean_ms=3, share=0.3), Phase(name="backward", mean_ms=6, share=0.6)]
    step = {"pass": "finetune", "params": {"precision": "fp32"}, "inputs": {"train": "dat_some"}}
    found = case([BUSY], phases=phases, recipe=[step], model=facts(["conv2d"], "torch-export"))
    piece = one(found, "training-precision")
    assert held(found, piece).recipe.passes[0].params["precision"] == "bf16"  # type: ignore[union-attr]
    assert inside(piece, 1 / (0.1 + 0.9 * 0.7))


def test_a_built_engine_gets_advice_and_no_job() -> None:
    found = case([BUSY], model=None, threads={1: {**TIMES, "p50_ms": 9, "low_ms": 9, "high_ms": 9}, 2: TIMES})
    pieces = advise(found)
    assert {piece.rule for piece in pieces} == {"threads"}
    assert all(piece.request is None and "built engine" in piece.why for piece in pieces)


def test_a_request_that_the_service_would_refuse_is_left_out_and_told() -> None:
    broken = {"torch-export": {"problem": {"detail": "an operator has no counterpart"}}}
    piece = one(case([BUSY], model=facts(["Conv"], conversions=broken)), "prune-channels")
    assert piece.request is None
    assert "an operator has no counterpart" in piece.why


def test_what_was_done_is_done_again_and_not_twice() -> None:
    step = {
        "pass": "simplify",
        "params": PASSES["simplify"].params().model_dump(mode="json"),
        "inputs": {},
        "version": 1,
    }
    found = case([BUSY], recipe=[step])
    request = held(found, one(found, "quantize"))
    assert [one.name for one in request.recipe.passes] == ["simplify", "quantize-static"]  # type: ignore[union-attr]
