"""The pass `qat`: what is trained is what is written, it fuses as `quantize-static`'s, and it wins back what that loses."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from app.catalog.pass_params.qat import QatParams
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError, IncompatibleRecipe, InvalidDataset, InvalidParams
from tests.workers.engines.networks import ArraySamples
from tests.workers.torch_programs.networks import lived_in
from tests.workers.training.arrays import digits
from tests.workers.training.eight_bits import NETWORKS, Mobile
from tests.workers.training.trainings import FolderCheckpoint
from workers import passes, runtimes
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, tree_digest
from workers.onnx_proof import open_session
from workers.runtimes.base import Engine
from workers.torch.program import TorchModel, export, save_program
from workers.torch.to_onnx import program_to_onnx
from workers.training.fake_quant_finish import trained_model
from workers.training.fake_quant_prepare import Plan, prepare_training
from workers.training.weights import save_tensors, state_of

LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}
LEARNED = 900  # digits that are trained on; the other half tells


FORMS: dict[str, dict[str, Any]] = {
    "uint8": {},
    "learned": {"ranges": "learned"},
    "tensorrt": {"form": "tensorrt"},
    "int8-symmetric": {"activation_type": "int8", "symmetric_activations": True},
    "whole": {"per_channel": False},
}


def made(network: nn.Module, folder: Path, batch: Any = "batch") -> tuple[ModelHandle, ModelHandle]:
    """A network as a program, and as the ONNX model that `quantize-static` takes."""
    inputs = ({"name": "images", "dtype": "float32", "shape": [batch, 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": [batch, 10]},)
    root = folder / "program"
    root.mkdir(parents=True)
    program = export(TorchModel(network.eval(), inputs, outputs))
    save_program(program, inputs, outputs, root / "model.pt2")
    model = ModelHandle(root, "model.pt2", "torch-export", tree_digest(root))
    return model, program_to_onnx(program, inputs, outputs, folder / "onnx")


def example(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return lived_in(NETWORKS[kind]())


def static(model: ModelHandle, images: np.ndarray, out: Path, **params: Any) -> ModelHandle:
    out.mkdir(parents=True)
    context = PassContext(out=out, samples={"calibration": ArraySamples({"images": images})})
    return passes.registry.get("quantize-static")(model, PASSES["quantize-static"].params(**params), context)


def trained(
    model: ModelHandle,
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    checkpoint: FolderCheckpoint | None = None,
    **params: Any,
) -> tuple[ModelHandle, PassContext]:
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    context = PassContext(
        out=folder / "out", work=folder / "work",
        samples={"train": ArraySamples({"images": images}, labels).filed(folder / "data")},
    )  # fmt: skip
    if checkpoint is not None:
        context.checkpoint, context.checkpoint_seconds = checkpoint, 0.0
    chosen = PASSES["qat"].params(loader=LOADER, **{"batch_size": 60, **params})
    return passes.registry.get("qat")(model, chosen, context), context


def logits(model: ModelHandle, images: np.ndarray) -> np.ndarray:
    found: np.ndarray = open_session(model).run(None, {"images": images})[0]
    return found


def points(model: ModelHandle) -> float:
    images, labels = digits(start=LEARNED)
    return float(100 * np.mean(logits(model, images).argmax(1) == labels))


def operators(model: ModelHandle) -> Counter[str]:
    return Counter(node.op_type for node in model.load_onnx().graph.node)


def engine(runtime: str, model: ModelHandle, out: Path, **params: Any) -> Engine:
    out.mkdir(parents=True)
    return runtimes.registry.alone(runtime).build(model, RUNTIMES[runtime].params(**params), out)


PAIRS = [("mobile", form) for form in FORMS] + [
    (kind, form) for kind in NETWORKS if kind != "mobile" for form in ("uint8", "tensorrt")
]
SOON = [pair for pair in PAIRS if pair == ("mobile", "tensorrt") or pair[1] == "uint8"]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(*pair, marks=[] if pair in SOON else [pytest.mark.slow], id="-".join(pair))
        for pair in PAIRS
    ],
)
def test_what_is_trained_is_what_is_written(kind: str, form: str, tmp_path: Path):
    """But for ties that fall the other way, a level at a time: in no more than a few outputs, and those by few levels."""
    model, plain = made(example(kind), tmp_path)
    images, labels = digits(120)
    params = QatParams(**FORMS[form])
    data = ArraySamples({"images": images})
    prepared = prepare_training(model, params, data, tmp_path, PassContext(out=tmp_path), "qat")
    network, _ = Plan.of(prepared.plan.told()).build(params)
    assert all(one.requires_grad for one in network.parameters())

    begun = logits(save_onnx(prepared.quantized, tmp_path / "begun"), images)
    chosen = {name: value for name, value in FORMS[form].items() if name != "ranges"}
    by_static = logits(static(plain, images, tmp_path / "static", **chosen), images)
    near(by_static, begun)
    x = torch.from_numpy(images)
    wanted = network(x)[0].detach().numpy()
    near(begun, wanted)

    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for step in range(8):
        if step == 5:
            network.freeze()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x)[0], torch.from_numpy(labels)).backward()
        optimizer.step()
    network.eval()
    save_tensors(state_of(network), tmp_path / "w.safetensors")
    ended = save_onnx(trained_model(prepared, tmp_path / "w.safetensors", params), tmp_path / "ended")
    after = network(x)[0].detach().numpy()
    assert np.abs(after - wanted).mean() > 0.05 * np.ptp(wanted)  # it has learned
    near(logits(ended, images), after)


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    level = np.ptp(wanted) / 64
    apart = np.abs(found - wanted)
    assert np.mean(apart > level) < 0.02
    assert apart.max() < 4 * level


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_it_fuses_as_quantize_static_does(kind: str, tmp_path: Path):
    model, plain = made(example(kind), tmp_path)
    images, labels = digits(120)
    by_calibration = static(plain, images, tmp_path / "static")
    by_training, context = trained(model, tmp_path / "qat", images, labels, epochs=1)

    assert operators(by_training) == operators(by_calibration)
    assert not any(entry["operator"] in ("Conv", "Gemm") for entry in context.facts["left_out"])
    for runtime, told in (("onnxruntime-cpu", "operators"), ("openvino-cpu", "compute")):
        facts = [
            engine(runtime, one, tmp_path / f"{runtime}{number}", threads=1).facts
            for number, one in enumerate((by_calibration, by_training))
        ]
        assert facts[0][told] == facts[1][told]
        assert facts[1]["compute"].get("int8"), facts[1]


@pytest.mark.parametrize("rest", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_tensorrt_builds_it(rest: str, tmp_path: Path):
    model, plain = made(example("residual"), tmp_path)
    images, labels = digits(120)
    form = {"form": "tensorrt", "rest": rest}
    ours, _ = trained(model, tmp_path / "qat", images, labels, epochs=1, **form)
    theirs = static(plain, images, tmp_path / "static", **form)

    facts = [
        engine("tensorrt-rtx", one, tmp_path / name, compute_capabilities=(89,)).facts
        for name, one in (("a", ours), ("b", theirs))
    ]
    assert facts[0]["compute"] == facts[1]["compute"]
    assert facts[0]["compute"]["int8"] >= 4


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, ModelHandle]:
    """A narrow depthwise network that knows digits, its channels of very different size: as a program, and as ONNX.

    So are those of networks that trained long (Nagel et al., 2019, figure 2); here they begin so.
    """
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network, random = Mobile(relu=True), torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data = torch.exp(torch.randn(part.weight.shape, generator=random))
    images, labels = (torch.from_numpy(one) for one in digits(LEARNED))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    for _ in range(15):
        for rows in torch.randperm(LEARNED).split(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return made(network, tmp_path_factory.mktemp("uneven"))


@pytest.mark.parametrize(
    "labelled",
    [pytest.param(True, id="labels"), pytest.param(False, id="no-labels", marks=pytest.mark.slow)],
)
def test_it_wins_back_what_quantize_static_loses(
    labelled: bool, uneven: tuple[ModelHandle, ModelHandle], tmp_path: Path
):
    model, plain = uneven
    images, labels = digits(LEARNED)
    before, lost = points(plain), points(static(plain, images, tmp_path / "static"))
    ours, context = trained(
        model, tmp_path / "qat", images, labels if labelled else None, epochs=5, learning_rate=5e-3
    )

    assert before > 85
    assert lost < before - 0.5
    assert points(ours) >= lost
    assert points(ours) > before - 3
    history = context.facts["training"]["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert set(history[0]["parts"]) == ({"hard", "soft"} if labelled else set())


def test_statistics_and_ranges_stay_once_they_are_frozen(tmp_path: Path):
    images, _ = digits(120)
    model, _ = made(example("mobile"), tmp_path)
    params = QatParams(ranges="moving")
    prepared = prepare_training(
        model, params, ArraySamples({"images": images}), tmp_path, PassContext(out=tmp_path), "qat"
    )
    network, _ = prepared.plan.build(params)
    network.train()
    x = torch.from_numpy(images)
    network(x)
    network.freeze()
    buffers = {name: one.clone() for name, one in network.named_buffers()}
    network.train()  # as at the beginning of each epoch
    network(x * 3)
    assert all(torch.equal(one, buffers[name]) for name, one in network.named_buffers())
    assert {name.rsplit(".", 1)[-1] for name in buffers} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "ends",
    }


def test_a_training_that_was_broken_off_ends_with_the_same_model(tmp_path: Path):
    images, labels = digits(120)
    model, _ = made(example("mobile"), tmp_path)
    params = {"epochs": 4, "ranges": "moving", "freeze_at": 0.6}
    whole, _ = trained(model, tmp_path / "whole", images, labels, **params)

    class Broken(Exception):
        pass

    def stop(folder: Path) -> None:
        if checkpoint.count == 5:
            raise Broken

    checkpoint = FolderCheckpoint.make(tmp_path / "kept", stop)
    with pytest.raises(Broken):
        trained(model, tmp_path / "broken", images, labels, checkpoint, **params)
    resumed, context = trained(
        model, tmp_path / "resumed", images, labels, FolderCheckpoint.make(tmp_path / "kept"), **params
    )

    assert len(context.facts["training"]["resumed_from"]) == 1
    assert resumed.digest == whole.digest


def test_a_fixed_batch_stays_fixed(tmp_path: Path):
    images, labels = digits(60)
    model, _ = made(example("mobile"), tmp_path, batch=1)
    ours, _ = trained(model, tmp_path / "qat", images, labels, epochs=1)

    assert [dim.dim_value for dim in ours.load_onnx().graph.input[0].type.tensor_type.shape.dim] == [
        1,
        1,
        8,
        8,
    ]
    assert logits(ours, images[:1]).shape == (1, 10)


def test_a_recurrent_layer_stays_as_it_is_and_is_named(tmp_path: Path):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.rows(images.reshape(-1, 8, 8))[0][:, -1])

    torch.manual_seed(0)
    images, labels = digits(60)
    model, _ = made(Recurrent(), tmp_path)
    ours, context = trained(model, tmp_path / "qat", images, labels, epochs=1)

    assert operators(ours)["LSTM"] == 1
    assert context.facts["quantized"] == {"Gemm": 1}
    assert any("1,056 weights stay as they are" in text for text in context.warnings)


BAD: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], Any], type[BurnishError], str]] = {
    "label out of range": ({}, lambda x, y: (x, np.where(np.arange(len(y)) == 7, 99, y)), InvalidDataset, "sample 7"),
    "infinity": (
        {}, lambda x, y: (np.where(np.arange(len(x))[:, None, None, None] == 3, np.inf, x).astype("f4"), y), InvalidDataset, "sample 3"
    ),
    "no such node": ({"excluded_nodes": ["nothing"]}, lambda x, y: (x, y), InvalidParams, "'nothing'"),
    "nothing to quantize": ({"operators": ["Resize"]}, lambda x, y: (x, y), IncompatibleRecipe, "no operator to quantize"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_named(case: str, tmp_path: Path):
    params, spoil, kind, text = BAD[case]
    model, _ = made(example("mobile"), tmp_path)
    with pytest.raises(kind) as refusal:
        trained(model, tmp_path / "qat", *spoil(*digits(120)), **{"epochs": 1, **params})
    assert text in refusal.value.detail


def test_half_precision_is_for_tensorrt_alone():
    with pytest.raises(ValidationError, match="rest is fp32 unless form is tensorrt"):
        QatParams(rest="fp16")
