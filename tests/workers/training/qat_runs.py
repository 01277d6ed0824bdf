"""The pass `qat` on small networks of images, beside `quantize-static` on the same."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from app.catalog.pass_params.qat import QatParams
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from tests.workers.engines.networks import ArraySamples
from tests.workers.torch_programs.networks import lived_in
from tests.workers.training.arrays import IMAGES, LOGITS, digits
from tests.workers.training.eight_bits import NETWORKS
from tests.workers.training.trainings import FolderCheckpoint
from workers import passes, runtimes
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, tree_digest
from workers.onnx_proof import open_session
from workers.runtimes.base import Engine
from workers.torch.program import TorchModel, export, load_program, save_program
from workers.torch.to_onnx import program_to_onnx
from workers.training.fake_quant_finish import trained_model
from workers.training.fake_quant_network import FakeQuantized
from workers.training.fake_quant_prepare import Plan, Prepared, prepare_training
from workers.training.group import SingleProcess
from workers.training.weights import save_tensors, state_of

LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}
FORMS: dict[str, dict[str, Any]] = {
    "uint8": {},
    "learned": {"ranges": "learned"},
    "tensorrt": {"form": "tensorrt"},
    "int8-symmetric": {"activation_type": "int8", "symmetric_activations": True},
    "whole": {"per_channel": False},
}


def program_of(
    network: nn.Module, folder: Path, inputs: Any = (IMAGES,), outputs: Any = (LOGITS,)
) -> ModelHandle:
    """A network as a program, in a folder that is made."""
    folder.mkdir(parents=True)
    save_program(export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


def onnx_of(model: ModelHandle, out: Path) -> ModelHandle:
    """A program as the ONNX model that `quantize-static` takes."""
    program = load_program(model.path)
    return program_to_onnx(program.program, program.inputs, program.outputs, out)


def static(model: ModelHandle, samples: Samples, out: Path, **params: Any) -> ModelHandle:
    out.mkdir(parents=True)
    context = PassContext(out=out, samples={"calibration": samples})
    return passes.registry.get("quantize-static")(model, PASSES["quantize-static"].params(**params), context)


def trained(
    model: ModelHandle,
    folder: Path,
    data: ArraySamples,
    checkpoint: FolderCheckpoint | None = None,
    calibration: Samples | None = None,
    **params: Any,
) -> tuple[ModelHandle, PassContext]:
    """The pass's model, and the context with what it told."""
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    samples = {"train": data.filed(folder / "data")}
    if calibration is not None:
        samples["calibration"] = calibration
    context = PassContext(out=folder / "out", work=folder / "work", samples=samples)
    if checkpoint is not None:
        context.checkpoint, context.checkpoint_seconds = checkpoint, 0.0
    chosen = PASSES["qat"].params(loader=LOADER, **{"batch_size": 60, "epochs": 1, **params})
    return passes.registry.get("qat")(model, chosen, context), context


def answers(model: ModelHandle, feeds: dict[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = open_session(model).run(None, feeds)[0]
    return found


def operators(model: ModelHandle) -> Counter[str]:
    return Counter(node.op_type for node in model.load_onnx().graph.node)


def engine(runtime: str, model: ModelHandle, out: Path, **params: Any) -> Engine:
    out.mkdir(parents=True)
    return runtimes.registry.alone(runtime).build(model, RUNTIMES[runtime].params(**params), out)


@dataclass(frozen=True)
class Run:
    """A network that was trained for a few steps: what it gives as PyTorch and what its files give, before and after."""

    static: ModelHandle
    prepared: Prepared
    ended: ModelHandle
    before: np.ndarray
    before_filed: np.ndarray
    after: np.ndarray
    after_filed: np.ndarray
    images: np.ndarray

    def network(self, params: QatParams) -> FakeQuantized:
        """As it was before."""
        return self.prepared.plan.build(params)[0]


def run(kind: str, form: str, folder: Path) -> Run:
    """Eight steps of the network `kind`, the last three with what is frozen late; all of it trains."""
    torch.manual_seed(0)
    model = program_of(lived_in(NETWORKS[kind]()), folder / "program")
    images, labels = digits(120)
    params, data = QatParams(**FORMS[form]), ArraySamples({"images": images})
    prepared = prepare_training(model, params, data, folder, PassContext(out=folder), "qat")
    network, _ = Plan.of(prepared.plan.told()).build(params)
    assert all(one.requires_grad for one in network.parameters())
    begun = save_onnx(prepared.quantized, folder / "begun")
    x = torch.from_numpy(images)
    before = network(x)[0].detach().numpy()

    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for step in range(8):
        if step == 5:
            network.freeze()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x)[0], torch.from_numpy(labels)).backward()
        optimizer.step()
    network.eval()
    save_tensors(state_of(network), folder / "w.safetensors", SingleProcess())
    ended = save_onnx(trained_model(prepared, folder / "w.safetensors", params), folder / "ended")
    chosen = {name: value for name, value in FORMS[form].items() if name != "ranges"}
    by_static = static(onnx_of(model, folder / "onnx"), data, folder / "static", **chosen)
    return Run(
        by_static, prepared, ended, before, answers(begun, {"images": images}), network(x)[0].detach().numpy(),
        answers(ended, {"images": images}), images,
    )  # fmt: skip
