"""XLA's runtimes beyond what every runtime promises: programs for TPUs, free dimensions, weights, threads, bundles."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch import nn

from app.artifacts.accelerators import accelerators
from app.artifacts.envelope import conditions_of, hold, verdict
from app.artifacts.machine import this_machine
from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidModel, InvalidParams, SignatureMismatch, Unavailable, UnsupportedOperator
from tests.workers.engines.networks import Network, answers
from workers import offered, runtimes
from workers.bundle import run as bundle_run
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.runtimes.base import Engine
from workers.torch.program import TorchModel, export, load_program, save_program
from workers.xla import files
from workers.xla.library import lowerings
from workers.xla.loaded import LoadedXla
from workers.xla.lower import lower

CPU, TPU = "xla-cpu", "xla-tpu"
RUN = """
import json, pathlib, runpy, sys
import numpy as np
loaders = runpy.run_path(sys.argv[1])['LOADERS']
target = {'runtime': sys.argv[2], 'params': {'threads': 1}}
run = loaders[sys.argv[2]](pathlib.Path(sys.argv[3]), target)
print(json.dumps({name: value.tolist() for name, value in run({'images': np.load(sys.argv[4])}).items()}))
heavy = ('app', 'workers', 'torch', 'torchax', 'onnx', 'safetensors')
assert not [name for name in sys.modules if name.split('.')[0] in heavy]
"""
THREADS = """
import pathlib, sys
import numpy as np
from workers.xla.loaded import LoadedXla
engine = LoadedXla(pathlib.Path(sys.argv[1]), 'cpu', int(sys.argv[2]))
engine.run({'images': np.zeros((1, 1, 8, 8), np.float32)})
assert 'torch' not in sys.modules
print(sum('XLAEigen' in task.read_text() for task in pathlib.Path('/proc/self/task').glob('*/comm')))
"""


AFTERWARDS = """
import torch
from workers.xla.library import lowerings
lowerings()
assert torch.accelerator.current_accelerator() is None
network = torch.nn.Linear(4, 4)
assert torch.compile(network, backend='eager')(torch.zeros(1, 4)).shape == (1, 4)
torch.export.export(network, (torch.zeros(1, 4),), strict=True)
"""


class Encoder(nn.Module):
    """Tokens to scores: attention with a mask, a table of positions that is no parameter, the embedding tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.register_buffer("positions", torch.randn(64, 16), persistent=False)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor, keep: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        x = self.layer(x, src_key_padding_mask=~keep)
        return {"scores": self.head(x), "best": self.head(x).argmax(-1)}


class Recurrent(nn.Module):
    """An LSTM over eight steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def program_of(module: nn.Module, inputs, outputs, folder: Path) -> ModelHandle:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_program(export(TorchModel(module.eval(), inputs, outputs)), inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


def one(module: nn.Module, shape: list, folder: Path, out: list | None = None) -> ModelHandle:
    entry = {"dtype": "float32", "shape": shape}
    return program_of(
        module, ({"name": "x", **entry},), ({"name": "y", **entry, "shape": out or shape},), folder
    )


def build(name: str, model: ModelHandle, out: Path, **params) -> Engine:
    out.mkdir(parents=True, exist_ok=True)
    return runtimes.registry.alone(name).build(model, RUNTIMES[name].params(**params), out)


def load(engine: Engine, name: str = CPU, **params):
    return runtimes.registry.alone(name).load(engine, RUNTIMES[name].params(**params))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Engine]:
    """The encoder with free batch and length, and its engine for TPUs."""
    shape = ["batch", "length"]
    inputs = (
        {"name": "tokens", "dtype": "int64", "shape": shape},
        {"name": "keep", "dtype": "bool", "shape": shape},
    )
    outputs = (
        {"name": "scores", "dtype": "float32", "shape": [*shape, 50]},
        {"name": "best", "dtype": "int64", "shape": shape},
    )
    folder = tmp_path_factory.mktemp("encoder")
    model = program_of(Encoder(), inputs, outputs, folder / "model")
    return model, build(TPU, model, folder / "engine")


@pytest.fixture(scope="module")
def digits(cnn: Network, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The convolutional network's engine for CPUs."""
    return build(CPU, cnn.program, tmp_path_factory.mktemp("digits"))


def tokens(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    keep = np.arange(length)[None] < random.integers(1, length + 1, batch)[:, None]
    return {"tokens": random.integers(0, 50, (batch, length)), "keep": keep}


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (3, 12)])
def test_a_program_for_tpus_computes_the_same_on_cpu(
    encoder: tuple[ModelHandle, Engine], batch: int, length: int
):
    model, engine = encoder
    feeds = tokens(batch, length)
    loaded = LoadedXla(engine.path, "cpu", runtimes.registry.alone(TPU)._threads(RUNTIMES[TPU].params()))
    found, expected = loaded.run(feeds), answers(model, feeds)

    kept = feeds["keep"]  # what is masked attends to nothing, and means nothing
    np.testing.assert_allclose(found["scores"][kept], expected["scores"][kept], rtol=1e-4, atol=1e-5)
    assert (found["best"] == expected["best"])[kept].all()
    assert found["best"].dtype == np.int64
    assert loaded.inputs == [
        {"name": "tokens", "dtype": "int64", "shape": [None, None]},
        {"name": "keep", "dtype": "bool", "shape": [None, None]},
    ]


def test_it_is_lowered_for_the_tpu_first_and_no_tpu_is_here(encoder: tuple[ModelHandle, Engine]):
    _, engine = encoder
    runtime, params = runtimes.registry.alone(TPU), RUNTIMES[TPU].params()

    exported = jax.export.deserialize(bytearray((engine.root / files.PROGRAM).read_bytes()))
    assert exported.platforms == ("tpu", "cpu")
    assert engine.facts["platforms"] == ["tpu", "cpu"]
    assert "no TPU" in runtime.hindrance(params)
    with pytest.raises(Unavailable, match="finds no TPU here"):
        runtime.load(engine, params)
    assert runtime.signature(engine)["outputs"][0] == {
        "name": "scores",
        "dtype": "float32",
        "shape": [None, None, 50],
    }
    validity = runtime.validity(engine, params)
    needed = conditions_of(validity)
    here = this_machine(needed)
    assert verdict(hold(needed, here)) == "no"
    assert verdict(hold(needed, {**here, "accelerators": ["tpu"]})) == "yes"
    assert verdict(hold(needed, {**here, "accelerators": ["tpu"], "package:jax": "0.9.2"})) == "no"
    assert verdict(hold(needed, {**here, "accelerators": ["tpu"], "package:jax": "0.11.0"})) == "unproved"


def test_the_precision_of_products_is_in_the_program(tmp_path: Path):
    program = load_program(one(nn.Linear(4, 3), [2, 4], tmp_path / "model", [2, 3]).path)
    written = {
        precision: jax.export.deserialize(bytearray(lower(program, ["tpu"], precision).program)).mlir_module()
        for precision in ("highest", "high", "default")
    }
    assert len(set(written.values())) == 3
    assert "precision = [HIGHEST, HIGHEST]" in written["highest"]


def test_tied_weights_are_stored_once(encoder: tuple[ModelHandle, Engine]):
    model, engine = encoder
    held = files.signature(engine.path)["weights"]
    assert len([name for name in held if name in ("embed.weight", "head.weight")]) == 1
    assert "positions" in held
    assert (engine.root / files.WEIGHTS).stat().st_size < model.size_bytes


def test_a_recurrent_network_runs(tmp_path: Path, signal: Callable):
    model = one(Recurrent(), ["batch", 8, 4], tmp_path / "model", ["batch", 8, 8])
    engine = build(CPU, model, tmp_path / "engine")
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8, 4)).astype(np.float32)}
    assert signal(answers(model, feeds)["y"], load(engine).run(feeds)["y"]) > 100
    assert any("fixed shapes" in sentence for sentence in engine.facts["explained"])


def test_half_precision_weights_stay_what_they_are(tmp_path: Path, signal: Callable):
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8).to(torch.bfloat16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.to(torch.bfloat16)).float()

    model = one(Half(), [2, 8], tmp_path / "model")
    engine = build(CPU, model, tmp_path / "engine")
    (weight, _) = files.read_weights(engine.root / files.WEIGHTS, files.signature(engine.path)["weights"])
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    assert weight.dtype.name == "bfloat16"
    assert signal(answers(model, feeds)["y"], load(engine).run(feeds)["y"]) > 40


def test_a_quantized_program_computes_the_same_in_floating_point(cnn: Network, apply, tmp_path: Path, signal):
    quantized, _ = apply("quantize-torch", cnn.program, cnn.train, mode="int8-static")
    engine = build(CPU, quantized, tmp_path / "engine")
    feeds = {"images": cnn.images[:32]}
    assert signal(answers(quantized, feeds)["logits"], load(engine).run(feeds)["logits"]) > 30
    assert any("3 quantized layers compute in floating" in sentence for sentence in engine.facts["explained"])


def test_operators_without_a_form_in_jax_are_named_before_anything_is_lowered(tmp_path: Path):
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.airy_ai(x + torch.rand_like(x))

    model = one(Noisy(), [2, 3], tmp_path / "model")
    with pytest.raises(UnsupportedOperator) as refusal:
        build(CPU, model, tmp_path / "engine")
    assert "aten.special_airy_ai.default" in refusal.value.detail
    assert "aten.rand" in refusal.value.detail
    covered = runtimes.registry.alone(CPU).coverage(model)
    assert len(covered.unsupported) == 2
    assert covered.evidence == "parsed"
    assert 0 < covered.share < 1


def test_sizes_outside_of_bounds_are_refused(tmp_path: Path):
    size = torch.export.Dim("size", min=3, max=6)
    exported = torch.export.export(nn.ReLU(), (torch.ones(4, 2),), dynamic_shapes=({0: size},))
    entry = {"dtype": "float32", "shape": ["size", 2]}
    (tmp_path / "model").mkdir()
    save_program(exported, ({"name": "x", **entry},), ({"name": "y", **entry},), tmp_path / "model/model.pt2")
    loaded = load(
        build(
            CPU, ModelHandle(tmp_path / "model", "model.pt2", "torch-export", "0" * 64), tmp_path / "engine"
        )
    )
    assert loaded.run({"x": -np.ones((6, 2), np.float32)})["y"].shape == (6, 2)
    for wrong in (2, 7):
        with pytest.raises(SignatureMismatch):
            loaded.run({"x": np.ones((wrong, 2), np.float32)})


def test_a_damaged_engine_is_refused(digits: Engine, tmp_path: Path):
    for file in digits.root.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / files.PROGRAM).write_bytes((digits.root / files.PROGRAM).read_bytes()[:500])
    with pytest.raises(InvalidModel) as refusal:
        load(Engine(tmp_path, files.ENTRY))
    assert refusal.value.stage == "loading"


def test_a_process_has_one_number_of_threads(digits: Engine):
    load(digits)
    with pytest.raises(InvalidParams) as refusal:
        load(digits, threads=1000)
    assert refusal.value.param == "threads"


@pytest.mark.parametrize("threads", [1, 3])
def test_it_runs_with_the_threads_that_it_is_given_and_without_torch(digits: Engine, threads: int):
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(digits.path), str(threads)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == threads


def test_a_bundle_runs_with_jax_and_numpy_alone(cnn: Network, digits: Engine, tmp_path: Path):
    np.save(tmp_path / "images.npy", cnn.images[:3])
    given = [bundle_run.__file__, CPU, str(digits.path), str(tmp_path / "images.npy")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, *given],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = answers(cnn.program, {"images": cnn.images[:3]})["logits"]
    np.testing.assert_allclose(json.loads(done.stdout)["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_for_tpus_says_that_there_is_none(encoder: tuple[ModelHandle, Engine], tmp_path: Path):
    np.save(tmp_path / "images.npy", np.zeros(1))
    given = [bundle_run.__file__, TPU, str(encoder[1].path), str(tmp_path / "images.npy")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, *given],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert "ImportError: JAX finds no TPU here" in done.stderr


def test_torch_is_left_as_it_was():
    lowerings()
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(AttributeError):
        _ = torch.ops.aten.prod.dim_Dimname


@pytest.mark.parametrize(
    ("vendor", "device", "found"),
    [("0x1ae0", "0x0063", ["tpu"]), ("0x1ae0", "0x0042", []), ("0x8086", "0x0063", [])],
    ids=["v5e", "a network card", "another maker"],
)
def test_a_tpu_is_found_by_files_alone(vendor: str, device: str, found: list[str], tmp_path: Path):
    folder = tmp_path / "bus/pci/devices/0000:00:05.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")
    assert accelerators(tmp_path) == found


def test_what_builds_ahead_of_time_needs_no_device():
    assert offered.without_absent([TPU, "openvino-npu"]) == [TPU]


def test_pytorch_compiles_and_exports_in_the_same_process_afterwards() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
