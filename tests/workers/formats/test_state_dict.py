"""Weights with the name of their architecture: found without being loaded, run, turned into ONNX."""

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from app.errors import InvalidModel
from tests.workers.formats.state_dicts import (
    FORMS,
    LEAST_SQNR_DB,
    SMALL,
    Save,
    images,
    opened,
    saved,
    torch_old,
    torch_zip,
    trained,
)
from tests.workers.formats.uploads import zipped
from workers.formats.base import Source
from workers.formats.locate import locate
from workers.formats.state_dict import StateDict
from workers.torch import zoo


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


def test_an_archive_of_weights_is_unpacked(tmp_path: Path) -> None:
    data = saved(trained(SMALL).state_dict(), tmp_path).read_bytes()
    archive = zipped(tmp_path / "upload", [("net/w.pth", data)])
    assert not StateDict().recognizes(archive)
    name, root, entry = locate(archive, tmp_path / "tree", 100_000_000, 50)
    assert (name, entry) == ("state-dict", "w.pth")
    assert StateDict().open(Source(root, entry, {"architecture": SMALL})).outputs


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
