"""Weights with the name of their architecture: found without being loaded, held against it, run, turned into ONNX."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch._weights_only_unpickler import _get_allowed_globals

from app.errors import BurnishError, InvalidModel, InvalidParams, UnsafeModel, UnsupportedFormat
from tests.workers.formats.uploads import zipped
from workers.formats import pickled
from workers.formats.base import Source
from workers.formats.locate import locate
from workers.formats.state_dict import StateDict
from workers.torch import zoo
from workers.torch.opened import OpenedTorch
from workers.torch.state_dict import _COMMON

LEAST_SQNR_DB = 80
SMALL = "resnet20_cifar10"  # takes 32×32
Save = Callable[[Any, Path], None]


def torch_zip(weights: Any, file: Path) -> None:
    torch.save(weights, file)


def torch_old(weights: Any, file: Path) -> None:
    torch.save(weights, file, _use_new_zipfile_serialization=False)


def safetensors(weights: Any, file: Path) -> None:
    save_file(dict(weights), file)


FORMS: dict[str, Save] = {"zip": torch_zip, "old": torch_old, "safetensors": safetensors}


def trained(architecture: str) -> torch.nn.Module:
    """A network whose every weight and batch statistic is another than a new one has."""
    torch.manual_seed(7)
    network = zoo.parse(architecture).build()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.mul_(torch.empty_like(value).uniform_(0.8, 1.2)).add_(0.01)
    return network


def saved(weights: Any, folder: Path, save: Save = torch_zip) -> Path:
    file = folder / StateDict.file_name
    save(weights, file)
    return file


def opened(file: Path, architecture: str | None, **declared: Any) -> OpenedTorch:
    assert StateDict().recognizes(file)
    told = {"architecture": architecture, **declared} if architecture else declared
    return StateDict().open(Source(file.parent, file.name, told))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_network_that_was_saved(form: str, tmp_path: Path) -> None:
    network = trained(SMALL)
    model = opened(saved(network.state_dict(), tmp_path, FORMS[form]), SMALL)
    assert model.inputs == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 32, 32]}]
    assert model.outputs == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    x = images(3, 3, 32, 32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(model.run({"input": x})["output"], wanted)
    assert model.facts == {
        "producer": zoo.producer(),
        "architecture": SMALL,
        "arguments": {},
        "parameters": sum(one.numel() for one in network.parameters()),
        "dtypes": ["float32", "int64"],
        "unwrapped": [],
    }


NETWORKS = {
    SMALL: {},
    "resnet10(num_classes=10, in_channels=1)": {},
    "mobilenetv2_wd4(num_classes=7)": {},
    "shufflenetv2_wd2": {},
    "efficientnet_b0(num_classes=5)": {
        "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 3, 64, 64]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": [None, 5]}],
    },
}


def as_onnx(name: str, folder: Path) -> None:
    declared = {"signature": NETWORKS[name]} if NETWORKS[name] else {}
    model = opened(saved(trained(name).state_dict(), folder), name, **declared)
    (folder / "onnx").mkdir()
    handle = model.to_onnx(folder / "onnx")
    session = onnxruntime.InferenceSession(handle.path, providers=["CPUExecutionProvider"])
    (given,), (told,) = model.inputs, model.outputs
    assert [one.name for one in (*session.get_inputs(), *session.get_outputs())] == [
        given["name"],
        told["name"],
    ]
    for batch in (1, 3):
        feeds = {given["name"]: images(batch, *given["shape"][1:])}
        wanted, got = model.run(feeds)[told["name"]].astype(np.float64), session.run(None, feeds)[0]
        assert wanted.shape == got.shape == (batch, *told["shape"][1:])
        assert np.square(wanted).sum() > np.square(wanted - got).sum() * 10 ** (LEAST_SQNR_DB / 10)


@pytest.mark.parametrize("name", [SMALL, "resnet10(num_classes=10, in_channels=1)"])
def test_as_onnx(name: str, tmp_path: Path) -> None:
    as_onnx(name, tmp_path)


@pytest.mark.slow  # torch's exporter takes seconds for each
@pytest.mark.parametrize(
    "name", ["mobilenetv2_wd4(num_classes=7)", "shufflenetv2_wd2", "efficientnet_b0(num_classes=5)"]
)
def test_others_as_onnx(name: str, tmp_path: Path) -> None:
    as_onnx(name, tmp_path)


def test_a_declared_signature_gives_names_and_sizes(tmp_path: Path) -> None:
    name = "efficientnet_b0(num_classes=5)"
    model = opened(saved(trained(name).state_dict(), tmp_path), name, signature=NETWORKS[name])
    assert model.inputs == [{"name": "image", "dtype": "float32", "shape": [None, 3, 64, 64]}]
    assert [(one["name"], one["shape"][1:]) for one in model.outputs] == [("scores", [5])]


def test_a_size_that_the_network_does_not_take_is_named(tmp_path: Path) -> None:
    signature = {"inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3, 8, 8]}], "outputs": []}
    with pytest.raises(InvalidModel, match="does not run") as error:
        opened(saved(trained(SMALL).state_dict(), tmp_path), SMALL, signature=signature)
    assert "signature" in (error.value.hint or "")


def prefixed(prefix: str) -> Callable[[dict[str, Any]], Any]:
    return lambda weights: OrderedDict((prefix + key, value) for key, value in weights.items())


WRAPPED: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "state_dict": (lambda weights: {"epoch": 3, "best": 0.7, "state_dict": weights}, ["state_dict"]),
    "model": (lambda weights: {"model": weights, "args": {"lr": 0.1, "seen": {1, 2}}}, ["model"]),
    "DataParallel": (prefixed("module."), ["module."]),
    "compiled": (prefixed("_orig_mod."), ["_orig_mod."]),
    "all": (
        lambda weights: {
            "checkpoint": 1,
            "model_state_dict": {"net": prefixed("module._orig_mod.")(weights)},
        },
        ["model_state_dict", "net", "module.", "_orig_mod."],
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_taken_out_of_checkpoints(how: str, tmp_path: Path) -> None:
    wrap, notes = WRAPPED[how]
    network = trained(SMALL)
    file = saved(wrap(network.state_dict()), tmp_path)
    model = opened(file, SMALL)
    assert model.facts["unwrapped"] == notes
    x = images(2, 3, 32, 32)
    with torch.inference_mode():
        np.testing.assert_array_equal(model.run({"input": x})["output"], network(torch.from_numpy(x)).numpy())


def test_a_checkpoint_with_its_optimizer(tmp_path: Path) -> None:
    network = trained(SMALL)
    optimizer = torch.optim.Adam(network.parameters())
    network.train()(torch.from_numpy(images(2, 3, 32, 32))).sum().backward()
    optimizer.step()
    file = saved({"state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path)
    assert opened(file, SMALL).facts["unwrapped"] == ["state_dict"]


def test_half_precision_weights_become_fp32(tmp_path: Path) -> None:
    network = trained(SMALL).half()
    model = opened(saved(network.state_dict(), tmp_path), SMALL)
    assert model.facts["dtypes"] == ["float16", "int64"]
    x = images(2, 3, 32, 32)
    with torch.inference_mode():
        np.testing.assert_array_equal(
            model.run({"input": x})["output"], network.float()(torch.from_numpy(x)).numpy()
        )


def test_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    weights = {
        key: value
        for key, value in trained(SMALL).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert opened(saved(weights, tmp_path), SMALL).facts["dtypes"] == ["float32"]


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    network = opened(saved(trained(SMALL).state_dict(), tmp_path), SMALL).to_torch().module
    network(torch.from_numpy(images(2, 3, 32, 32)))[:, 0].sum().backward()
    assert all(one.grad is not None for one in network.parameters())


def test_without_an_architecture_the_error_shows_the_form_and_a_guess(tmp_path: Path) -> None:
    file = saved(trained("mobilenetv2_wd4(num_classes=7, in_channels=1)").state_dict(), tmp_path)
    with pytest.raises(InvalidParams) as error:
        opened(file, None)
    assert error.value.param == "architecture"
    assert "resnet18" in (error.value.hint or "")
    assert "`mobilenetv2_wd4(in_channels=1, num_classes=7)`" in (error.value.hint or "")


def test_weights_of_a_network_of_ones_own_get_another_way_shown(tmp_path: Path) -> None:
    file = saved(torch.nn.Sequential(torch.nn.Linear(4, 5)).state_dict(), tmp_path)
    with pytest.raises(InvalidParams) as error:
        opened(file, None)
    assert "torch.export.save" in (error.value.hint or "")
    with pytest.raises(InvalidModel) as unfit:
        opened(file, SMALL)
    assert "torch.export.save" in (unfit.value.hint or "")


def test_every_network_that_is_guessed_is_there() -> None:
    assert set(_COMMON) <= zoo.names().keys()


@pytest.mark.parametrize(
    ("was", "told", "better"),
    [
        ("resnet20_cifar10(num_classes=100)", SMALL, "resnet20_cifar10(num_classes=100)"),
        (
            "resnet20_cifar10(num_classes=100, in_channels=1)",
            "resnet20_cifar10(in_size=(32, 32), num_classes=10)",
            "resnet20_cifar10(in_size=(32, 32), num_classes=100, in_channels=1)",
        ),
        ("mobilenetv2_wd4(num_classes=7)", "mobilenetv2_wd4", "mobilenetv2_wd4(num_classes=7)"),
    ],
    ids=["classes", "classes-and-channels", "convolution-as-head"],
)  # fmt: skip
def test_arguments_that_would_fit_are_told(was: str, told: str, better: str, tmp_path: Path) -> None:
    file = saved(trained(was).state_dict(), tmp_path)
    with pytest.raises(InvalidModel, match="of another shape") as error:
        opened(file, told)
    assert error.value.hint == f"these weights fit `{better}`"
    assert opened(file, better).facts["architecture"] == was.partition("(")[0]


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    weights = trained(SMALL).state_dict()
    weights["surplus"] = torch.zeros(3)
    del weights["features.init_block.conv.weight"]
    weights["output.bias"] = torch.zeros(11)
    with pytest.raises(InvalidModel, match="1 missing, 1 without a place, 1 of another shape") as error:
        opened(saved(weights, tmp_path), SMALL)
    assert error.value.param == "architecture"
    assert error.value.errors == [
        {"path": "features.init_block.conv.weight", "message": "missing"},
        {"path": "surplus", "message": "the network has no place for it"},
        {"path": "output.bias", "message": "is [11], must be [10]"},
    ]


def test_weights_of_another_network_are_counted_and_guessed(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"\d\d missing, \d+ without a place") as error:
        opened(saved(trained("resnet10").state_dict(), tmp_path), SMALL)
    assert 20 < len(error.value.errors or []) <= 60
    assert "`resnet10`" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("text", "found"),
    [("resnett18", "resnet18"), ("ResNet18", "resnet18"), ("mobilenet_v2", "mobilenetv2_w1")],
)
def test_a_name_that_is_almost_one_gets_suggestions(text: str, found: str) -> None:
    with pytest.raises(InvalidParams, match=text) as error:
        zoo.parse(text)
    assert found in (error.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "", "resnet18(", "resnet18(10)", "resnet18(**{})", "resnet18(num_classes=open('x'))", "os.system", "resnet18()()",
        "resnet18(pretrained=True)", "resnet18(root='/tmp')", "resnet18(num_classes=[1])", "resnet18(num_classes=None)",
        "resnet18(num_classes=1+1)", "(" * 500, "__import__('os')", "resnet18(a=1, a=2)", "lambda: 1", "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_name_with_plain_arguments_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams) as error:
        zoo.parse(text)
    assert error.value.param == "architecture"
    assert error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "resnet18(nonsense=1)",
        "resnet18(num_classes=-1)",
        "resnet18(num_classes='many')",
        "resnet18(num_classes=10**15)",
    ],
)
def test_arguments_that_a_network_does_not_take_end_in_a_plain_error(text: str) -> None:
    with pytest.raises(InvalidParams) as error:
        zoo.parse(text.replace("10**15", str(10**15))).build()
    assert error.value.hint


def test_an_assertion_about_an_argument_is_shown() -> None:
    with pytest.raises(InvalidParams, match=r"num_classes in \[10, 100\]"):
        zoo.parse("resnet20_cifar10(num_classes=7)").build()


@pytest.mark.parametrize("save", [torch_zip, torch_old])
def test_a_network_that_was_pickled_is_not_recognized(save: Save, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    save(torch.nn.Linear(2, 3), file)
    assert not StateDict().recognizes(file)
    with pytest.raises(BurnishError):
        locate(file, tmp_path / "tree", 10_000_000, 50)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [torch_zip, torch_old])
def test_a_trap_among_weights_never_runs(save: Save, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = saved({**trained(SMALL).state_dict(), "trap": Trap(mark)}, tmp_path, save)
    assert not StateDict().recognizes(file)
    with pytest.raises(UnsafeModel, match="more than tensors"):
        StateDict().open(Source(tmp_path, file.name, {"architecture": SMALL}))
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("protocol", range(6))
def test_other_pickles_are_not_recognized(protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(pickle.dumps({"w": [1, 2]}, protocol))
    assert not StateDict().recognizes(file)
    zipped(file, [("a/data.pkl", pickle.dumps(Trap(tmp_path), protocol)), ("a/version", b"3")])
    assert not StateDict().recognizes(file)


def test_torchscript_is_not_recognized(tmp_path: Path) -> None:
    weights = io.BytesIO()
    torch.save({"w": torch.ones(2)}, weights)
    with zipfile.ZipFile(weights) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    file = zipped(tmp_path / "upload", [*members, ("archive/constants.pkl", b"")])
    assert not StateDict().recognizes(file)


def test_the_names_that_are_let_through_are_torchs_own() -> None:
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING  # Python 2's, which the pickles of torch speak

    known = _get_allowed_globals()
    for text in pickled._NAMES:
        module, _, name = text.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        assert f"{module}.{name}" in known, text


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "bfloat16", "int8", "bool", "complex64", "float8_e4m3fn", "uint16"]
)
@pytest.mark.parametrize("save", [torch_zip, torch_old])
def test_tensors_of_every_type_are_recognized(save: Save, dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    if save is torch_old and dtype in ("float8_e4m3fn", "uint16"):
        kind = torch.int16  # the old form has no word for newer types
    given = {
        "w": torch.ones(2).to(kind),
        "p": torch.nn.Parameter(torch.ones(1)),
        "dtype": kind,
        "size": torch.Size([1]),
    }
    assert StateDict().recognizes(saved(given, tmp_path, save))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    weights = trained(SMALL).state_dict()
    weights["output.weight"] = weights["output.weight"].to(torch.int8)
    for save in (torch_zip, safetensors):
        with pytest.raises(UnsupportedFormat, match=r"output\.weight.*int8"):
            opened(saved(weights, tmp_path, save), SMALL)


@pytest.mark.parametrize(
    "held", [torch.ones(2), {}, {"a": 1}, {"model": {"model": 1}}, [torch.ones(2)], {1: torch.ones(2)}],
    ids=["tensor", "empty", "number", "nested", "list", "numbered"],
)  # fmt: skip
def test_files_without_named_weights_are_refused(held: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no weights by name") as error:
        opened(saved(held, tmp_path), SMALL)
    assert "state_dict()" in (error.value.hint or "")


def header(told: Any, data: bytes = bytes(8)) -> bytes:
    text = json.dumps(told).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}), id="past-the-end"
        ),
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}), id="huge-shape"
        ),
        pytest.param(
            header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), id="shape-against-bytes"
        ),
        pytest.param(header({"w": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}), id="unknown-type"),
        pytest.param(header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}), id="backwards"),
        pytest.param(
            header(
                {
                    "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                    "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                }
            ),
            id="overlapping",
        ),
        pytest.param((20).to_bytes(8, "little") + b"{" * 40, id="no-json"),
    ],
)
def test_a_header_that_lies_ends_in_a_plain_error(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(data)
    with pytest.raises(InvalidModel, match="damaged"):
        opened(file, SMALL)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_end_in_plain_errors(
    form: str, tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    whole = saved({"w": torch.ones(300), "b": torch.zeros(5)}, tmp_path, FORMS[form]).read_bytes()
    file = tmp_path / "damaged"
    refused = 0
    for data in damaged(whole):
        file.write_bytes(data)
        StateDict().recognizes(file)
        with pytest.raises(BurnishError) as error:  # these weights are of no network
            StateDict().open(Source(tmp_path, file.name, {"architecture": SMALL}))
        refused += error.value.param is None
    assert refused > 20


def test_an_archive_of_weights_is_unpacked(tmp_path: Path) -> None:
    data = saved(trained(SMALL).state_dict(), tmp_path).read_bytes()
    archive = zipped(tmp_path / "upload", [("net/w.pth", data)])
    assert not StateDict().recognizes(archive)
    name, root, entry = locate(archive, tmp_path / "tree", 100_000_000, 50)
    assert (name, entry) == ("state-dict", "w.pth")
    assert StateDict().open(Source(root, entry, {"architecture": SMALL})).outputs


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"{}", bytes(100), (2**40).to_bytes(8, "little") + b"{}"]
)
def test_other_files_are_not_recognized(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert not StateDict().recognizes(tmp_path / "file")


def test_it_writes_nothing_and_calls_nobody(tmp_path: Path) -> None:
    file = saved(trained(SMALL).state_dict(), tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import pathlib, socket, sys\n"
        "def refuse(*given): raise SystemExit(f'a connection to {given}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from workers.formats.base import Source\n"
        "from workers.formats.state_dict import StateDict\n"
        "file = pathlib.Path(sys.argv[1])\n"
        f"model = StateDict().open(Source(file.parent, file.name, {{'architecture': {SMALL!r}}}))\n"
        "print(len(model.inputs))\n"
    )
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, file], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not list(home.iterdir())
