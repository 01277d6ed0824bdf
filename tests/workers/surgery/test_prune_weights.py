"""The pass `prune-weights`: which weights become zero, what is told of it, and that training and quantization keep the zeros."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import nn

from app.catalog.pass_params.prune_weights import PruneWeightsParams
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import IncompatibleRecipe, InvalidParams
from tests.workers.engines.networks import ArraySamples
from tests.workers.training.networks import CLASSES, Small, digits, trained, untrained, write_program
from workers import passes
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.surgery.masks import by_magnitude, n_of_m
from workers.torch.lift import lift
from workers.torch.program import TorchModel, export, load_program, runner, save_program
from workers.training import launch

LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}
SHORT = {"epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "loader": LOADER}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "usable_processors", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def handle(path: Path) -> ModelHandle:
    return ModelHandle(path.parent, path.name, "torch-export", tree_digest(path.parent))


def run(
    name: str, model: ModelHandle, folder: Path, samples: dict[str, Any] | None = None, **params: Any
) -> tuple[ModelHandle, PassContext]:
    folders = {part: folder / name / part for part in ("out", "aside", "work")}
    for one in folders.values():
        one.mkdir(parents=True)
    context = PassContext(samples=samples or {}, **folders)
    return passes.registry.get(name)(model, PASSES[name].params(**params), context), context


def weights(model: ModelHandle) -> dict[str, torch.Tensor]:
    held = lift(load_program(model.path).program)
    return {name: one.detach() for name, one in held.named_parameters() if one.dim() > 1}


def answers(model: ModelHandle) -> np.ndarray:
    return runner(load_program(model.path))(dict(digits().held.inputs))["logits"]


def top1(model: ModelHandle) -> float:
    return float((answers(model).argmax(1) == digits().held.labels).mean())


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """A network that knows digits: weights of 32 by 64 and of 10 by 32."""
    return handle(write_program(trained("mlp"), digits().train, tmp_path_factory.mktemp("mlp") / "model.pt2"))


def test_the_smallest_weights_of_all_layers_go(mlp: ModelHandle, tmp_path: Path) -> None:
    pruned, context = run("prune-weights", mlp, tmp_path, ratio=0.7)
    before, after = weights(mlp), weights(pruned)
    gone = {name: (after[name] == 0) & (before[name] != 0) for name in before}
    kept = torch.cat([before[name][~gone[name]].abs() for name in before])
    lost = torch.cat([before[name][gone[name]].abs() for name in before])
    assert lost.numel() == round(0.7 * (32 * 64 + 10 * 32))
    assert lost.max() <= kept.min()
    assert all(torch.equal(after[name][~gone[name]], before[name][~gone[name]]) for name in before)
    assert context.facts["pruned"] == {
        "weights": 2368,
        "zeros": lost.numel(),
        "layers": [
            {
                "name": name,
                "weights": after[f"{name}.weight"].numel(),
                "zeros": int(gone[f"{name}.weight"].sum()),
            }
            for name in ("hidden", "head")
        ],
        "left_out": [],
    }


def test_each_layer_loses_the_same_share_where_that_is_asked(mlp: ModelHandle, tmp_path: Path) -> None:
    pruned, _ = run("prune-weights", mlp, tmp_path, ratio=0.25, scope="per-layer")
    assert [int((one == 0).sum()) for one in weights(pruned).values()] == [32 * 64 // 4, 10 * 32 // 4]


def test_no_ratio_changes_nothing(mlp: ModelHandle, tmp_path: Path) -> None:
    pruned, context = run("prune-weights", mlp, tmp_path, ratio=0)
    assert np.array_equal(answers(pruned), answers(mlp))
    assert load_program(pruned.path).inputs == load_program(mlp.path).inputs
    assert context.facts["pruned"]["zeros"] == 0


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 8), (3, 4)])
def test_n_of_m_inputs_in_a_row_stay_at_each_place(n: int, m: int) -> None:
    torch.manual_seed(0)
    convolution, product = torch.randn(6, 16, 3, 3), torch.randn(5, 16)
    kept = n_of_m({"convolution": convolution, "product": product}, n, m)
    for weight, mask in ((convolution, kept["convolution"]), (product, kept["product"])):
        groups = mask.movedim(1, -1).reshape(-1, m)
        sizes = weight.abs().movedim(1, -1).reshape(-1, m)
        assert groups.sum(1).tolist() == [n] * len(groups)
        least, most = sizes.masked_fill(~groups, torch.inf).amin(1), sizes.masked_fill(groups, 0).amax(1)
        assert bool((least >= most).all())


def test_layers_that_do_not_fit_the_pattern_stay_and_are_named(tmp_path: Path) -> None:
    model = handle(write_program(untrained(Small), digits().train, tmp_path / "model" / "model.pt2"))
    pruned, context = run("prune-weights", model, tmp_path, n=2, m=4)
    (left,) = context.facts["pruned"]["left_out"]
    assert left["name"] == "features.0.0"
    assert "1 input channels in a sum" in left["reason"]
    before, after = weights(model), weights(pruned)
    assert torch.equal(after["features.0.0.weight"], before["features.0.0.weight"])
    assert [layer["zeros"] / layer["weights"] for layer in context.facts["pruned"]["layers"]] == [0.5] * 3
    assert any(left["name"] in line for line in context.told)


def test_layers_that_are_ignored_stay(mlp: ModelHandle, tmp_path: Path) -> None:
    pruned, context = run("prune-weights", mlp, tmp_path, ignore=["he?d"])
    assert torch.equal(weights(pruned)["head.weight"], weights(mlp)["head.weight"])
    assert context.facts["pruned"]["left_out"] == [{"name": "head", "reason": "is ignored"}]
    assert context.facts["pruned"]["zeros"] == 32 * 64 // 2


def test_a_weight_that_embeds_words_stays(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False))
    network[2].weight = network[0].weight
    inputs = ({"name": "ids", "dtype": "int64", "shape": ["batch", 7]},)
    outputs = ({"name": "y", "dtype": "float32", "shape": ["batch", 7, 12]},)
    save_program(export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, tmp_path / "model.pt2")
    pruned, context = run("prune-weights", handle(tmp_path / "model.pt2"), tmp_path / "run")
    reason = "shares its weight with an embedding"
    assert context.facts["pruned"]["left_out"] == [{"name": "2", "reason": reason}]
    assert torch.equal(weights(pruned)["0.weight"], network[0].weight)


def test_a_layer_keeps_one_weight_however_small() -> None:
    small, large = torch.full((2, 2), 1e-6), torch.rand(8, 8) + 1
    kept = by_magnitude({"small": small, "large": large}, 0.5, per_layer=False)
    assert int(kept["small"].sum()) == 1
    assert int(by_magnitude({"small": small}, 0.99, per_layer=True)["small"].sum()) == 1


def test_it_is_told_what_zeros_are_worth_where(mlp: ModelHandle, tmp_path: Path) -> None:
    _, context = run("prune-weights", mlp, tmp_path)
    told = context.told[-1]
    assert all(name in told for name in RUNTIMES)
    assert "sparse tensor cores" in told
    assert told.endswith("no faster.")
    assert "no faster" in RUNTIMES["onnxruntime-cpu"].sparsity


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"ratio": 1}, "less than 1"),
        ({"ratio": -0.1}, "greater than or equal to 0"),
        ({"n": 2}, "go together"),
        ({"n": 4, "m": 4}, "leaves every weight"),
        ({"n": 2, "m": 4, "ratio": 0.5}, "ratio of its own"),
    ],
)
def test_parameters_that_make_no_sense(params: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        PruneWeightsParams(**params)


def test_a_name_that_is_no_layers(mlp: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="'tail'") as refusal:
        run("prune-weights", mlp, tmp_path, ignore=["tail"])
    assert refusal.value.param == "ignore"
    assert "hidden, head" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("network", "params", "what"),
    [
        (nn.ReLU(), {}, "no convolution and no linear layer"),
        (nn.Linear(6, 6), {"n": 1, "m": 4}, "no whole groups of 4"),
        (nn.Linear(6, 6), {"ignore": ["*"]}, "is ignored"),
    ],
)
def test_a_network_without_weights_to_prune(
    network: nn.Module, params: dict[str, Any], what: str, tmp_path: Path
) -> None:
    entry = {"dtype": "float32", "shape": ["batch", 6]}
    inputs, outputs = ({"name": "x", **entry},), ({"name": "y", **entry},)
    save_program(export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, tmp_path / "model.pt2")
    with pytest.raises(IncompatibleRecipe, match=what) as refusal:
        run("prune-weights", handle(tmp_path / "model.pt2"), tmp_path / "run", **params)
    assert refusal.value.hint


@pytest.fixture(scope="module")
def sparse(mlp: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """The same network with one of every eight weights."""
    return run("prune-weights", mlp, tmp_path_factory.mktemp("sparse"), n=1, m=8)[0]


def samples(folder: Path) -> dict[str, Any]:
    train = digits().train
    return {"train": ArraySamples(dict(train.inputs), train.labels).filed(folder / "data")}


@pytest.mark.parametrize("name", ["finetune", "distill"])
def test_training_wins_back_and_keeps_the_zeros(
    name: str, mlp: ModelHandle, sparse: ModelHandle, tmp_path: Path
) -> None:
    folder = tmp_path / "training"
    folders = {part: folder / part for part in ("out", "aside", "work")}
    for one in folders.values():
        one.mkdir(parents=True)
    context = PassContext(samples=samples(tmp_path), teacher=mlp, **folders)
    better = passes.registry.get(name)(sparse, PASSES[name].params(**SHORT), context)
    before, after = weights(sparse), weights(better)
    assert all(torch.equal(before[key] == 0, after[key] == 0) for key in before)
    assert top1(sparse) < top1(mlp) - 0.05
    assert top1(better) > top1(sparse) + 0.03
    assert context.facts["training"]["kept_zero"] == sum(int((one == 0).sum()) for one in before.values())
    assert "weights that were zero stayed so" in context.told[0]


def test_training_fills_zeros_where_that_is_asked(sparse: ModelHandle, tmp_path: Path) -> None:
    filled, context = run(
        "finetune", sparse, tmp_path, samples(tmp_path), **{**SHORT, "epochs": 1, "keep_zeros": False}
    )
    assert all(float((one == 0).float().mean()) < 0.2 for one in weights(filled).values())
    assert context.facts["training"]["kept_zero"] == 0


def test_eight_bits_keep_the_zeros(sparse: ModelHandle, tmp_path: Path) -> None:
    given = {**SHORT, "epochs": 1}
    quantized, context = run("qat", sparse, tmp_path, samples(tmp_path), **given)
    held = weights(sparse)
    found = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(quantized.path).graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(tensor.dims) == 2
    ]
    assert sorted(one.size for one in found) == [CLASSES * 32, 32 * 64]
    for values in found:
        zero = next(one == 0 for one in held.values() if one.numel() == values.size)
        turned = values if values.shape == zero.shape else values.T
        assert not turned[zero.numpy()].any()
    assert context.facts["training"]["kept_zero"] > 0
