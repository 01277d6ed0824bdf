"""PyTorch's runtimes beyond what every runtime promises: threads, memory layouts, facts, bundles, and what stays behind."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidModel, SignatureMismatch, Unavailable, UnsupportedOperator
from tests.workers.engines.networks import Network, answers
from workers import runtimes
from workers.bundle import run as bundle_run
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.runtimes.base import Engine
from workers.runtimes.why import why
from workers.torch import inductor
from workers.torch.facts import layers, program_facts
from workers.torch.program import Program, TorchModel, export, load_program, runner, save_program

CPU = "torch-inductor-cpu"
PACKAGE = "engine.pt2"


class Two(torch.nn.Module):
    """Two inputs with two free dimensions each, two outputs, an operator that is elementwise."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left + right, "product": torch.relu(left @ right.transpose(1, 2))}


def program_of(module: torch.nn.Module, inputs, outputs, folder: Path) -> ModelHandle:
    folder.mkdir(parents=True, exist_ok=True)
    program = export(TorchModel(module.eval(), inputs, outputs))
    save_program(program, inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


def build(name: str, model: ModelHandle, out: Path, **params) -> Engine:
    out.mkdir(parents=True, exist_ok=True)
    return runtimes.registry.alone(name).build(model, RUNTIMES[name].params(**params), out)


def load(name: str, engine: Engine, **params):
    return runtimes.registry.alone(name).load(engine, RUNTIMES[name].params(**params))


@pytest.fixture(scope="module")
def compiled(cnn: Network, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The convolutional network, compiled for one thread."""
    return build(CPU, cnn.program, tmp_path_factory.mktemp("compiled"), threads=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Engine]:
    """The network of two inputs, and its engine."""
    entry = {"dtype": "float32", "shape": ["batch", "length", 4]}
    inputs = ({"name": "left.x", **entry}, {"name": "right", **entry})
    square = {"dtype": "float32", "shape": ["batch", "length", "length"]}
    outputs = ({"name": "sum", **entry}, {"name": "product", **square})
    folder = tmp_path_factory.mktemp("two")
    model = program_of(Two(), inputs, outputs, folder / "model")
    return model, build(CPU, model, folder / "engine", threads=1)


def test_free_dimensions_stay_free_and_names_stay(two: tuple[ModelHandle, Engine]):
    model, engine = two
    loaded = load(CPU, engine)
    values = np.random.default_rng(0)

    assert [entry["name"] for entry in loaded.inputs] == ["left.x", "right"]
    assert loaded.inputs[0]["shape"] == [None, None, 4]
    for batch, length in ((1, 1), (2, 7), (5, 3)):
        feeds = {name: values.standard_normal((batch, length, 4), np.float32) for name in ("left.x", "right")}
        expected, got = answers(model, feeds), loaded.run(feeds)
        assert got.keys() == expected.keys() == {"sum", "product"}
        for name in got:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(SignatureMismatch):
        loaded.run({"left.x": feeds["left.x"], "right": feeds["right"][:, :2]})


def test_arrays_in_any_layout_give_the_same(cnn: Network, compiled: Engine):
    """A single channel lets oneDNN take an array for one whose channels are last; compiled code looks at memory alone."""
    loaded = load(CPU, compiled)
    images = np.ascontiguousarray(cnn.images[:9])
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    reversed_in_memory = np.asfortranarray(images)
    odd = torch.from_numpy(images).as_strided(images.shape, (64, 1, 8, 1)).numpy()

    expected = answers(cnn.program, {"images": images})["logits"]
    for layout in (images, channels_last, reversed_in_memory, odd, np.repeat(images, 2, axis=0)[::2]):
        assert np.array_equal(layout, images)
        np.testing.assert_allclose(loaded.run({"images": layout})["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_program_exported_with_channels_last_is_fed_as_it_was_exported(tmp_path: Path):
    module = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        .eval()
        .to(memory_format=torch.channels_last)
    )
    example = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    path = tmp_path / "model.pt2"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        torch.export.save(torch.export.export(module, (example,)), path)
    engine = build(
        CPU, ModelHandle(tmp_path, "model.pt2", "torch-export", ""), tmp_path / "engine", threads=1
    )

    name = load_program(path).inputs[0]["name"]
    array = example.contiguous().numpy()
    got = load(CPU, engine).run({name: array})
    expected = runner(load_program(path))({name: array})
    for key, value in got.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-5)


def test_it_runs_with_the_threads_that_it_was_compiled_for(compiled: Engine):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load(CPU, compiled, threads=0)
        assert torch.get_num_threads() == 1
        with pytest.raises(InvalidModel) as refusal:
            load(CPU, compiled, threads=3)
    finally:
        torch.set_num_threads(before)
    assert refusal.value.param == "threads"
    assert "compiled for 1 threads, asked for were 3" in refusal.value.detail
    assert runtimes.registry.alone(CPU).validity(compiled, RUNTIMES[CPU].params())["threads"] == 1


def test_facts_count_kernels_and_calls(compiled: Engine):
    operators = compiled.facts["operators"]

    assert operators["mkldnn__convolution_pointwise"] == 3
    assert operators["_linear_pointwise"] == 1
    assert operators["generated kernel"] >= 2
    assert compiled.facts["compute"] == {"fp32": 4}
    assert compiled.facts["convolutions"] == {"fp32": 3}
    sentences = why(compiled.facts, compiled.facts, {"speedup": {"verdict": "no_difference"}})
    assert any("Inductor made" in sentence for sentence in sentences)
    assert not any("ConvInteger" in sentence or "QuantizeLinear" in sentence for sentence in sentences)


def test_an_engine_holds_neither_sources_nor_paths_of_the_machine(compiled: Engine):
    with zipfile.ZipFile(compiled.path) as package:
        names = package.namelist()
        content = b"".join(package.read(name) for name in names)

    assert any(name.endswith(".so") for name in names)
    assert not any(name.endswith((".cpp", ".cu", ".h")) for name in names)
    for folder in (Path(torch.__file__).parent.parent, compiled.root, Path.cwd()):
        assert str(folder).encode() not in content


def test_compiling_leaves_neither_processes_nor_settings(
    two: tuple[ModelHandle, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    before, children = torch.get_num_threads(), set(psutil.Process().children(recursive=True))

    build(CPU, two[0], tmp_path / "engine", threads=1)

    assert set(psutil.Process().children(recursive=True)) <= children
    assert torch.get_num_threads() == before
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    assert "TRITON_CACHE_DIR" not in os.environ
    assert [path.name for path in (tmp_path / "engine").iterdir()] == [PACKAGE]


def test_without_a_compiler_it_says_so(cnn: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(Unavailable) as refusal:
        build(CPU, cnn.program, tmp_path / "engine")
    assert "no-such-compiler" in refusal.value.detail
    assert "g++" in refusal.value.hint
    with pytest.raises(Unavailable):
        runtimes.registry.alone(CPU).self_test()


def test_a_compiler_that_fails_is_told(cnn: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inductor, "_without_paths", lambda: {"cpp.march": "no-such-processor"})

    with pytest.raises(UnsupportedOperator) as refusal:
        build(CPU, cnn.program, tmp_path / "engine", threads=1)
    assert refusal.value.stage == "building"
    assert "the C++ compiler refuses" in refusal.value.detail


def test_a_damaged_engine_is_refused(compiled: Engine, tmp_path: Path):
    (tmp_path / PACKAGE).write_bytes(compiled.path.read_bytes()[:5000])

    with pytest.raises(InvalidModel) as refusal:
        load(CPU, Engine(tmp_path, PACKAGE, compiled.facts))
    assert refusal.value.stage == "loading"


@pytest.mark.parametrize("name", ["torch-eager", CPU])
def test_a_bundle_runs_without_burnish(name: str, cnn: Network, compiled: Engine, tmp_path: Path):
    engine = compiled if name == CPU else build(name, cnn.program, tmp_path / "engine")
    script = (
        "import sys, json, runpy, pathlib, numpy as np\n"
        "loaders = runpy.run_path(sys.argv[1])['LOADERS']\n"
        "target = {'runtime': sys.argv[2], 'params': {'threads': 1}}\n"
        "run = loaders[sys.argv[2]](pathlib.Path(sys.argv[3]), target)\n"
        "images = np.load(sys.argv[4])\n"
        "print(json.dumps({name: value.tolist() for name, value in run({'images': images}).items()}))\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('app', 'workers', 'onnx')]\n"
    )
    np.save(tmp_path / "images.npy", cnn.images[:3])
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, bundle_run.__file__, name, str(engine.path), str(tmp_path / "images.npy")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    got = np.array(json.loads(done.stdout)["logits"], dtype=np.float32)
    np.testing.assert_allclose(
        got, answers(cnn.program, {"images": cnn.images[:3]})["logits"], rtol=1e-4, atol=1e-4
    )


def test_eager_opens_the_model_from_its_own_files(cnn: Network, tmp_path: Path):
    engine = build("torch-eager", cnn.program, tmp_path / "engine")

    told = json.loads(engine.path.read_text())
    assert told["format"] == "torch-export"
    assert (told["inputs"], told["outputs"]) == (["images"], ["logits"])
    assert (engine.root / "model" / told["entry"]).is_file()
    assert engine.facts == {**program_facts(load_program(cnn.program.path).program), "explained": []}


def test_eager_uses_the_threads_that_it_is_given(cnn: Network, tmp_path: Path):
    engine = build("torch-eager", cnn.program, tmp_path / "engine")
    before = torch.get_num_threads()
    try:
        load("torch-eager", engine, threads=2)
        assert torch.get_num_threads() == 2
        load("torch-eager", engine, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_facts_see_the_branches_of_control_flow(tmp_path: Path):
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: x * 2, (x,))

    exported = torch.export.export(Branching().eval(), (torch.rand(2, 4),))
    found = layers(exported)

    assert [(layer.operator, layer.precision, layer.quantized) for layer in found] == [
        ("linear", "fp32", None)
    ]
    assert program_facts(exported)["operators"]["cond"] == 1


@pytest.mark.parametrize("name", sorted(name for name in RUNTIMES if name.startswith("torch-")))
def test_all_of_a_program_is_covered(name: str, cnn: Network):
    coverage = runtimes.registry.alone(name).coverage(cnn.program)

    assert coverage.operators == 12
    assert coverage.unsupported == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cuda_runtime_says_so(cnn: Network, tmp_path: Path):
    with pytest.raises(Unavailable) as refusal:
        build("torch-inductor-cuda", cnn.program, tmp_path / "engine")
    assert "GPU" in refusal.value.detail


def test_a_program_keeps_its_signature_through_eager(two: tuple[ModelHandle, Engine], tmp_path: Path):
    engine = build("torch-eager", two[0], tmp_path / "engine")
    loaded = load("torch-eager", engine)
    program: Program = load_program(two[0].path)

    assert [entry["name"] for entry in loaded.inputs] == [entry["name"] for entry in program.inputs]
    assert loaded.outputs[1]["shape"] == [None, None, None]
