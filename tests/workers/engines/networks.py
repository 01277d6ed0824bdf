"""Small real networks, and samples for them, that passes and runtimes are tried on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from app.catalog.runtimes import RUNTIMES
from workers import runtimes
from workers.assignment import DatasetFiles
from workers.context import Feeds, Samples
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of, tree_digest
from workers.onnx_proof import open_session
from workers.runtimes.base import Engine, LoadedEngine, unnamed
from workers.samples import open_samples
from workers.torch.program import TorchModel, export, load_program, runner, save_program

RUNTIME_OF = {"openvino": "openvino-cpu"}  # of formats that passes leave


class ArraySamples:
    """Samples from arrays in memory: what `workers.samples` gives from files."""

    synthetic = False

    def __init__(self, arrays: Feeds, labels: np.ndarray | None = None):
        self._arrays = arrays
        self._labels = labels
        self.digest = "0" * 64
        self.count = len(next(iter(arrays.values())))
        self.inputs = {name: (str(array.dtype), array.shape[1:]) for name, array in arrays.items()}

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        count = min(self.count, limit or self.count)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            labels = None if self._labels is None else self._labels[part]
            yield {name: array[part] for name, array in self._arrays.items()}, labels

    def filed(self, folder: Path) -> Samples:
        """The same as an uploaded `.npz`: what passes that train take, as they open it anew in other processes."""
        folder.mkdir(parents=True)
        labels = {} if self._labels is None else {"labels": self._labels}
        np.savez(folder / "samples.npz", **self._arrays, **labels)
        return open_samples(
            DatasetFiles(id="dat_1", digest=self.digest, root=folder, format="npz", name="samples")
        )


@dataclass(frozen=True)
class Network:
    """A trained classifier of 8 by 8 digits: as ONNX and as a PyTorch program, training samples, test images with labels."""

    model: ModelHandle
    program: ModelHandle
    train: ArraySamples
    images: np.ndarray
    labels: np.ndarray

    def taken(self, formats: frozenset[str]) -> ModelHandle:
        """It in a format that a pass or a runtime takes."""
        return self.model if "onnx" in formats else self.program


class Cnn(torch.nn.Module):
    """Three convolutions, one of them depthwise, batch norms, a residual addition, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        )
        self.depthwise = torch.nn.Sequential(
            torch.nn.Conv2d(16, 16, 3, padding=1, groups=16), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        )
        self.last = torch.nn.Sequential(
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images)
        hidden = self.last(hidden + self.depthwise(hidden))
        return self.head(hidden.mean(dim=(2, 3)))


class Mlp(torch.nn.Module):
    """Linear layers over an image's rows, a layer norm, a linear head: MatMul and Gemm, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 64),
            torch.nn.LayerNorm(64),
            torch.nn.GELU(),
            torch.nn.Linear(64, 64),
            torch.nn.GELU(),
        )
        self.head = torch.nn.Linear(8 * 64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images.reshape(-1, 8, 8)).flatten(1))


class Deep(torch.nn.Module):
    """Residual branches of two linear layers behind norms, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = torch.nn.Linear(64, 48), torch.nn.Linear(48, 10)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(48), torch.nn.Linear(48, 64), torch.nn.GELU(), torch.nn.Linear(64, 48)
            )
            for _ in range(5)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def trained(network: torch.nn.Module, folder: Path, epochs: int = 15) -> Network:
    """Train on scikit-learn's digits (1,797 real ones, a fifth held back) and export with a free batch."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small layers: more threads only wait for one another
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    held, used = order[:360], order[360:]
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    data, target = torch.from_numpy(images[used]), torch.from_numpy(labels[used])
    for _ in range(epochs):
        for part in torch.randperm(len(data)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data[part]), target[part]).backward()
            optimizer.step()
    network.eval()
    program = torch.onnx.export(
        network,
        (data[:2],),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    model = save_onnx(program.model_proto, folder / "onnx")
    train = ArraySamples({"images": images[used]}, labels[used])
    return Network(model, _program(network, folder / "program"), train, images[held], labels[held])


def _program(network: torch.nn.Module, folder: Path) -> ModelHandle:
    """A classifier of images as a `.pt2`, its batch free."""
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)
    folder.mkdir(parents=True)
    save_program(export(TorchModel(network, inputs, outputs)), inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


def answers(model: ModelHandle, feeds: Feeds) -> Feeds:
    """What a model of any format that passes leave gives for these feeds, by output."""
    if model.format == "onnx":
        session = open_session(model)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    if model.format == "torch-export":
        return runner(load_program(model.path))(feeds)
    return loaded(model).run(feeds)


def signature(model: ModelHandle) -> dict[str, list[tuple[str, str, list[int | None]]]]:
    """{inputs, outputs: [(name, dtype, shape)]}, free dimensions None: the same for every format."""
    if model.format == "onnx":
        return {
            side: [
                (
                    name,
                    helper.tensor_dtype_to_np_dtype(kind).name,
                    [dim if isinstance(dim, int) else None for dim in shape],
                )
                for name, (kind, shape) in values.items()
            ]
            for side, values in signature_of(model.load_onnx(weights=False)).items()
        }
    engine = load_program(model.path) if model.format == "torch-export" else loaded(model)
    return {
        side: [(entry["name"], entry["dtype"], entry["shape"]) for entry in unnamed(entries)]
        for side, entries in (("inputs", engine.inputs), ("outputs", engine.outputs))
    }


def loaded(model: ModelHandle) -> LoadedEngine:
    """A model in a runtime's own format, in that runtime at its baseline's precision."""
    spec = RUNTIMES[RUNTIME_OF[model.format]]
    return runtimes.registry.alone(spec.name).load(
        Engine(model.root, model.entry), spec.baseline_params(spec.params())
    )


def file_model(path: Path, folder: Path) -> ModelHandle:
    """A model file as a handle of its own."""
    return save_onnx(onnx.load(str(path)), folder)


def masked_attention(folder: Path, fill: float) -> ModelHandle:
    """One head of attention over rows, of which `kept` tells which may be read: [n, 6, 16] to [n, 6, 16]."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.standard_normal((16, 16)).astype(np.float32) / 3, name)
        for name in ("q", "k", "v")
    ]
    constants += [
        numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0.0), ("fill", fill))
    ]
    constants += [
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.float32(4), "width"),
    ]
    nodes = [
        *(helper.make_node("MatMul", ["rows", name], [f"{name}s"], f"{name}_product") for name in "qkv"),
        helper.make_node("Transpose", ["ks"], ["kt"], "turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["qs", "kt"], ["raw"], "scores"),
        helper.make_node("Div", ["raw", "width"], ["scaled"], "scale"),
        helper.make_node("Where", ["kept", "zero", "fill"], ["flat"], "mask"),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["wide"], "widened"),
        helper.make_node("Add", ["scaled", "wide"], ["masked"], "masking"),
        helper.make_node("Softmax", ["masked"], ["shares"], "shares", axis=-1),
        helper.make_node("MatMul", ["shares", "vs"], ["read"], "reading"),
    ]
    inputs = [
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 6, 16]),
        helper.make_tensor_value_info("kept", TensorProto.BOOL, ["n", 6]),
    ]
    outputs = [helper.make_tensor_value_info("read", TensorProto.FLOAT, ["n", 6, 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder
    )
